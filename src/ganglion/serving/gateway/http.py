"""HTTP/1.1 on one connection: httptools callbacks in, answers in order out; no framework and no future per request.

Whoever is on the other end is not trusted: sizes, counts and times are limited before memory is spent.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from io import BytesIO
from typing import cast

import httptools

from ganglion.core.log import get_logger
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.exchange import Exchange, Handler, MakeExchange
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.limits import HttpLimits

_NEVER = float("inf")
_LARGE_BODY = 2**20  # bytes; joining the parts of such a one would need its memory twice
_NO_HEAD = Head("GET", "", {})

_MOST_HEADS = 1024
"""Heads that are known at a time; once there are more, all are forgotten and learnt anew."""

_LONGEST_HEAD = 1024
"""Bytes of the longest head that is known."""

_log = get_logger(part="serving.gateway")


class Phase(enum.Enum):
    """What a connection waits for from its client."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


class HttpServer:
    """What the connections of one listening socket share.

    Args:
        handler: gets every complete request.
        limits: of each connection.
        exchange: makes what a handler gets.

    Attributes:
        connections: those that are open.
        held: bytes of the bodies that are arriving.
        heads: what heads of requests that came in one piece mean, and how long the bodies behind them are.
        draining: whether every connection closes behind the answer in hand.
    """

    def __init__(self, handler: Handler, limits: HttpLimits, exchange: MakeExchange = Exchange) -> None:
        self.handler = handler
        self.exchange = exchange
        self.limits = limits
        self.connections: set[HttpConnection] = set()
        self.held = 0
        self.heads: dict[bytes, tuple[Head, int]] = {}
        self.draining = False

    def __call__(self) -> HttpConnection:
        """The protocol of a new connection."""
        return HttpConnection(self)

    def sweep(self, now: float) -> None:
        """End connections whose client is too slow."""
        for connection in tuple(self.connections):
            connection.check_time(now)

    def drain(self) -> None:
        """Close idle connections now and the others after the answer in hand."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.close_if_idle()

    def abort(self) -> None:
        """Cut every connection."""
        for connection in tuple(self.connections):
            connection.abort()


class HttpConnection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._time = asyncio.get_running_loop().time
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._pipeline: deque[Exchange] = deque()
        self._phase = Phase.IDLE
        self._deadline = self._time() + self._limits.idle_timeout
        self._unread_since: float | None = None
        self._paused = False
        self._refusal: RequestError | None = None
        self._closing = False
        self._body: list[bytes] = []
        self._large: BytesIO | None = None
        self._last: tuple[Head, int] | None = None
        self._discarded = 0
        self._reset()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class has no common base
        connections = self._server.connections
        connections.add(self)
        if len(connections) > self._limits.connections:
            self._refuse(RequestError(503, "There are too many open connections.", retry_after=1))
            self._close()  # at once: it must not take the place of another

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._closing:
            self._discarded += len(data)  # a refused client may go on sending for a while
            if self._discarded > self._limits.linger:
                self.abort()
            return
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        known = self._server.heads.get(data[:end])
        if known is not None and self._phase is Phase.IDLE and len(data) == end + known[1]:
            self._complete(known[0], data[end:], closes=False)
        else:
            self._parse(data)
        if len(self._pipeline) >= self._limits.pipelined:
            self._pause()

    def _parse(self, data: bytes) -> None:
        """Bytes that are not one request with a head that is known."""
        whole = self._phase is Phase.IDLE
        self._last = None
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            _log.error("request_failed", error=repr(error.__context__ or error))
            self._refuse(RequestError(500, "The gateway failed on this request; its log says why."))
            return
        except httptools.HttpParserError as error:
            self._refuse(RequestError(400, f"This is not HTTP/1.1: {error}."))
            return
        if self._phase is Phase.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.url + self._limits.head:
                self._too_long_head()
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif whole and self._last is not None and self._phase is Phase.IDLE:
            self._remember(data, *self._last)

    def _remember(self, data: bytes, head: Head, length: int) -> None:
        """Know the head of a request that came in one piece: clients send the same few again and again.

        The same bytes between two requests always mean the same, on any connection, so they need no parser.
        """
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        if end >= 4 and len(data) == end + length:
            heads = self._server.heads
            if len(heads) >= _MOST_HEADS:
                heads.clear()
            heads[data[:end]] = head, length

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self._closing = True
        self._transport = None
        self._server.connections.discard(self)
        self._let_go()
        pipeline, self._pipeline = self._pipeline, deque()
        for exchange in pipeline:
            if exchange.answer is None:
                exchange.abandon()

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._unread_since = self._time()
        self._pause()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._unread_since = None
        self._resume()

    # httptools

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._reset()
        self._enter(Phase.HEAD, self._limits.head_timeout)

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url
        if len(self._url) > self._limits.url:
            self._note(RequestError(414, f"The target is longer than {self._limits.url} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field."""
        self._header_bytes += len(name) + len(value)
        self._header_count += 1
        if self._header_count > self._limits.headers or self._header_bytes > self._limits.head:
            self._too_long_head()
            return
        lowered = name.lower()
        if lowered == b"host":
            self._has_host = True
        elif lowered == b"content-length":
            self._length = value
            if len(value) > 18 or (value.isdigit() and int(value) > self._limits.body):
                self._too_long_body()
        elif lowered in Head.READ:
            self._fields[lowered] = value
        elif lowered == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
            if not self._expects_continue:
                self._note(RequestError(417, "Only the expectation '100-continue' can be met."))
        elif lowered == b"content-encoding" and value.lower() != b"identity":
            self._note(RequestError(415, "Compressed bodies are not accepted; send it without content-encoding."))

    def on_headers_complete(self) -> None:
        """The body begins."""
        if not self._has_host and self._parser.get_http_version() == "1.1":
            self._note(RequestError(400, "An HTTP/1.1 request needs a host header."))
        self._enter(Phase.BODY, self._limits.body_timeout)
        if self._expects_continue and self._refusal is None and not self._pipeline and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(data)
        self._server.held += len(data)
        if self._body_bytes > self._limits.body:
            self._too_long_body()
        elif self._server.held > self._limits.bodies:
            self._note(RequestError(503, "Too many bytes are arriving at once.", retry_after=1))
        elif self._refusal is None:
            self._keep(data)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._refusal is not None or self._closing:
            return
        self._head_bytes = 0
        body = self._whole_body()
        self._let_go()
        head = self._parsed_head()
        closes = not self._parser.should_keep_alive()
        repeatable = not (closes or self._expects_continue) and self._length == b"%d" % len(body)
        self._last = (head, len(body)) if repeatable else None
        self._complete(head, body, closes=closes)

    # the rest

    def _parsed_head(self) -> Head:
        method = self._parser.get_method().decode("latin-1")
        return Head(method, self._url.partition(b"?")[0].decode("latin-1"), self._fields)

    def _complete(self, head: Head, body: bytes, *, closes: bool) -> None:
        """Hand a request over."""
        self._phase = Phase.IDLE
        self._deadline = _NEVER
        closes = closes or self._server.draining
        exchange = self._server.exchange(self.flush, head, body, closes=closes)
        self._pipeline.append(exchange)
        self._closing = closes
        try:
            self._server.handler(exchange)
        except Exception:  # noqa: BLE001  a fault on one request must not leave it without an answer
            _log.error("request_failed", method=head.method, path=head.path, exc_info=True)
            exchange.refuse(RequestError(500, "The gateway failed on this request; its log says why."))

    def flush(self) -> None:
        """Write the answers that are due, in the order of their requests."""
        pipeline = self._pipeline
        if self._transport is None or not pipeline or pipeline[0].answer is None:
            return
        exchange = pipeline.popleft()
        due, closes = exchange.answer, exchange.closes
        assert due is not None
        while pipeline and pipeline[0].answer is not None and not closes:
            exchange = pipeline.popleft()
            assert exchange.answer is not None
            due += exchange.answer
            closes = exchange.closes
        self._transport.write(due)
        if closes and self._refusal is not None:
            self._linger()
        elif closes:
            self._close()
        elif not pipeline and self._phase is Phase.IDLE:
            self._enter(Phase.IDLE, self._limits.idle_timeout)
        if self._paused and self._unread_since is None and len(pipeline) < self._limits.pipelined:
            self._resume()

    def check_time(self, now: float) -> None:
        """End the connection if its client is too slow."""
        if self._unread_since is not None and now - self._unread_since > self._limits.write_timeout:
            self.abort()
        elif now > self._deadline and not self._paused:
            if self._phase is Phase.IDLE:
                self._close()
            else:
                self._refuse(RequestError(408, f"The {self._phase.value} of the request did not arrive in time."))

    def close_if_idle(self) -> None:
        """Close unless a request is in hand or arriving."""
        if self._pipeline:
            self._pipeline[-1].closes = True
        elif self._phase is Phase.IDLE:
            self._close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:  # not taken: HTTP/1.1 goes on behind the request
                self._parser = httptools.HttpRequestParser(self)
                data = data[upgrade.args[0] :]

    def _reset(self) -> None:
        self._url = b""
        self._head_bytes = 0
        self._header_bytes = 0
        self._header_count = 0
        self._has_host = False
        self._expects_continue = False
        self._length = b"0"
        self._fields: dict[bytes, bytes] = {}
        self._body = []
        self._body_bytes = 0
        self._large = None

    def _keep(self, data: bytes) -> None:
        if self._large is None and self._body_bytes > _LARGE_BODY:
            self._large = BytesIO()
            self._large.writelines(self._body)
            self._body = []
        if self._large is None:
            self._body.append(data)
        else:
            self._large.write(data)

    def _whole_body(self) -> bytes:
        if self._large is not None:
            return self._large.getvalue()  # no copy, as nothing more is written
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def _let_go(self) -> None:
        """Forget the body that was arriving."""
        self._server.held -= self._body_bytes
        self._body, self._body_bytes, self._large = [], 0, None

    def _enter(self, phase: Phase, timeout: float | None) -> None:
        self._phase = phase
        self._deadline = _NEVER if timeout is None else self._time() + timeout

    def _note(self, error: RequestError) -> None:
        """Remember the first reason to refuse the request that is being parsed."""
        self._refusal = self._refusal or error

    def _too_long_head(self) -> None:
        limits = self._limits
        self._note(RequestError(431, f"At most {limits.headers} headers of {limits.head} bytes in all are accepted."))

    def _too_long_body(self) -> None:
        self._note(RequestError(413, f"The body is larger than {self._limits.body} bytes."))

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error after the answers in hand, then close: the rest of the stream is not understood."""
        head = _NO_HEAD if self._phase is not Phase.BODY else self._parsed_head()
        self._refusal = error
        self._closing = True
        self._let_go()
        self._enter(Phase.IDLE, None)
        exchange = self._server.exchange(self.flush, head, b"", closes=True)
        self._pipeline.append(exchange)
        exchange.refuse(error)

    def _linger(self) -> None:
        """Close the sending side and discard what still comes: a reset would destroy the answer before it is read."""
        self._closing = True
        if self._transport is not None:
            self._transport.write_eof()
            self._enter(Phase.IDLE, self._limits.linger_timeout)

    def _close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._closing:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._unread_since is None and len(self._pipeline) < self._limits.pipelined:
            self._paused = False
            if self._phase is Phase.HEAD:
                self._enter(Phase.HEAD, self._limits.head_timeout)
            elif self._phase is Phase.BODY:
                self._enter(Phase.BODY, self._limits.body_timeout)
            if self._transport is not None and not self._closing:
                self._transport.resume_reading()
