"""One HTTP request and its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from time import gmtime, time
from typing import Protocol

import orjson

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.head import Head

JSON = "application/json"

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Exchange:
    """One request and its answer.

    Args:
        flush: called when there is an answer.
        head: method, path and header fields.
        body: complete and not compressed.
        closes: the connection ends behind the answer.

    Attributes:
        answer: the bytes to be written, once there are any.
        abandoned: called by `abandon`; set by whoever handles the request.
    """

    __slots__ = ("_flush", "abandoned", "answer", "body", "closes", "head")

    def __init__(self, flush: Callable[[], None], head: Head, body: bytes, *, closes: bool) -> None:
        self._flush = flush
        self.head = head
        self.body = body
        self.closes = closes
        self.answer: bytes | None = None
        self.abandoned: Callable[[], None] | None = None

    @property
    def method(self) -> str:
        """Of the request."""
        return self.head.method

    @property
    def path(self) -> str:
        """Of the target, without the query; percent-encoded."""
        return self.head.path

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer; written once all earlier requests of the connection are answered."""
        start = _start(status, content_type, self.closes, int(time()))
        if headers:
            start += "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        if self.head.method == "HEAD":
            self.answer = b"%bcontent-length: %d\r\n\r\n" % (start, len(body))
        else:
            self.answer = b"%bcontent-length: %d\r\n\r\n%b" % (start, len(body), body)
        self._flush()

    def abandon(self) -> None:
        """The client is gone before the answer."""
        if self.abandoned is not None:
            self.abandoned()

    def refuse(self, error: RequestError, *, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an error: `{"error": message}`."""
        extra = dict(headers or {})
        if error.retry_after is not None:
            extra["retry-after"] = str(error.retry_after)
        self.respond(error.status, orjson.dumps({"error": str(error)}), headers=extra)


@lru_cache(maxsize=256)
def _start(status: int, content_type: str, closes: bool, second: int) -> bytes:
    """The beginning of an answer, which within a second is nearly always one of a few."""
    connection = "close" if closes else "keep-alive"
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ndate: {_date(second)}\r\n"
        f"content-type: {content_type}\r\nconnection: {connection}\r\n"
    ).encode("latin-1")


def _date(second: int) -> str:
    """A moment as RFC 9110, 5.6.7 writes it, in no language but its own."""
    at = gmtime(second)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} {clock} GMT"


Handler = Callable[[Exchange], None]
"""Takes a complete request and answers it, at once or later, by `Exchange.respond`."""


class MakeExchange(Protocol):
    """Makes the exchange of a complete request; `Exchange` itself does."""

    def __call__(self, flush: Callable[[], None], head: Head, body: bytes, *, closes: bool) -> Exchange:
        """The arguments are those of `Exchange`."""
        ...
