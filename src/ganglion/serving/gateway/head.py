"""The head of a request, as far as the gateway reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")


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


def is_host(value: bytes) -> bool:
    """Whether a host header may say this: a name or an address, with or without a port, or nothing."""
    return _HOST.fullmatch(value) is not None


def without_host(target: str) -> str:
    """The path of a target that names the server as well, as one for a proxy does; any other is left as it is."""
    scheme, separator, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if separator and scheme.lower() in ("http", "https") else target
