"""One HTTP request and its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

import orjson

from ganglion.serving.gateway.errors import RequestError


class Exchange:
    """One request and its answer.

    Args:
        flush: called when there is an answer.
        method: such as `POST`.
        path: of the target, without the query; percent-encoded.
        body: complete and not compressed.
        closes: the connection ends behind the answer.

    Attributes:
        answer: the bytes to be written, once there are any.
        abandoned: called when the client is gone before the answer; set by whoever handles the request.
    """

    __slots__ = ("_flush", "abandoned", "answer", "body", "closes", "method", "path")

    def __init__(self, flush: Callable[[], None], method: str, path: str, body: bytes, *, closes: bool) -> None:
        self._flush = flush
        self.method = method
        self.path = path
        self.body = body
        self.closes = closes
        self.answer: bytes | None = None
        self.abandoned: Callable[[], None] | None = None

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer; written once all earlier requests of the connection are answered."""
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        connection = "close" if self.closes else "keep-alive"
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\nconnection: {connection}\r\n{extra}\r\n"
        ).encode("latin-1")
        self.answer = head if self.method == "HEAD" else head + body
        self._flush()

    def refuse(self, error: RequestError, *, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an error: `{"error": message}`."""
        extra = dict(headers or {})
        if error.retry_after is not None:
            extra["retry-after"] = str(error.retry_after)
        self.respond(error.status, orjson.dumps({"error": str(error)}), headers=extra)


Handler = Callable[[Exchange], None]
"""Takes a complete request and answers it, at once or later, by `Exchange.respond`."""
