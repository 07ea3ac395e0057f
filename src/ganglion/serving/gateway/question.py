"""What a protocol makes of the body of a prediction request, and what it makes of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.exchange import JSON
from ganglion.serving.gateway.head import Head
from ganglion.serving.payload import Payload
from ganglion.serving.runtime import Tensors


class Reply(NamedTuple):
    """The body of an answer.

    Attributes:
        body: its bytes.
        content_type: what they are.
        headers: further header fields.
        status: HTTP status.
    """

    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] | None = None
    status: int = 200


class Question(NamedTuple):
    """A prediction request that has been read.

    Attributes:
        payload: its instances.
        render: from the outputs to the answer.
        timeout: seconds that the body allows, if it says so.
        parameters: what the answer says beside its outputs, where the protocol has a place for it; filled before
            `render` is called.
    """

    payload: Payload
    render: Callable[[Tensors], Reply]
    timeout: float | None = None
    parameters: dict[str, str] | None = None


Read = Callable[[Endpoint, Head, bytes], Question]
"""Reads the body of a request for an endpoint; raises `RequestError` for what it cannot read."""
