"""The head of a request, as far as the gateway reads it."""

from __future__ import annotations

from collections.abc import Mapping


class Head:
    """Method, path and the header fields that mean something here; immutable, shared by requests that repeat it.

    Attributes:
        method: such as `POST`.
        path: of the target, without the query; percent-encoded.
        fields: those of `READ`, by lower-case name.
    """

    __slots__ = ("fields", "method", "path")

    READ = frozenset(
        (
            b"authorization",
            b"x-api-key",
            b"x-request-timeout-ms",
            b"inference-header-content-length",
            b"ganglion-route-key",
        )
    )
    """Names of the fields that are kept."""

    def __init__(self, method: str, path: str, fields: Mapping[bytes, bytes]) -> None:
        self.method = method
        self.path = path
        self.fields = fields
