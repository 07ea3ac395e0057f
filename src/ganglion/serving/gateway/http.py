"""HTTP/1.1 on one connection: httptools callbacks in, answers in order out; no framework and no future per request.

Whoever is on the other end is not trusted: sizes, counts and times are limited before memory is spent.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from ganglion.core.log import get_logger
from ganglion.serving.gateway.body import DIRECT, MOST_BEGUN, Body, DirectBody
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.exchange import Exchange, Handler, MakeExchange
from ganglion.serving.gateway.head import Head, is_host, without_host
from ganglion.serving.gateway.known_heads import KnownHeads
from ganglion.serving.gateway.limits import HttpLimits

_NEVER = float("inf")
_NO_HEAD = Head("GET", "", {})

_FRAMING = 8
"""Bytes that may arrive for each byte of a body: chunks of one byte take six."""

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
        refused: told the status of each request that does not come to be handled.

    Attributes:
        connections: those that are open.
        held: bytes of the bodies that are arriving.
        promised: bytes that the bodies for which there is memory already will have.
        heads: what heads of requests that came in one piece mean, and how long the bodies behind them are.
        draining: whether every connection closes behind the answer in hand.
    """

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        exchange: MakeExchange = Exchange,
        refused: Callable[[int], None] = lambda _status: None,
    ) -> None:
        self.handler = handler
        self.refused = refused
        self.exchange = exchange
        self.limits = limits
        self.connections: set[HttpConnection] = set()
        self.held = 0
        self.promised = 0
        self.heads = KnownHeads()
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

    _has_host: bool
    _received: int

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
        self._body = Body()
        self._promised = 0
        self._last: tuple[Head, int] | None = None
        self._discarded = 0
        self._ended: int | None = None  # bytes of the bodies that were completed by the piece in hand
        self._goes_on = False
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
        known = self._server.heads.find(data) if self._phase is Phase.IDLE else None
        if known is not None:
            self._complete(*known, closes=False)
        else:
            self._parse(data)
            if self._phase is Phase.BODY and not self._closing:
                self._receive_directly()

    def _parse(self, data: bytes) -> None:
        """Bytes that are not one request with a head that is known."""
        whole = self._phase is Phase.IDLE
        self._last = None
        self._ended = None
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            _log.error("request_failed", error=repr(error.__context__ or error))
            self._refuse(RequestError(500, "The gateway failed on this request; its log says why."))
            return
        except httptools.HttpParserError as error:
            self._refuse(RequestError(400, f"This is not HTTP/1.1: {error}."))
            return
        if self._phase is not Phase.IDLE:
            if self._ended is None:
                self._received += len(data)
            else:  # others came before, in the same piece
                self._received = max(0, len(data) - data.rfind(b"\r\n\r\n") - 4 - self._ended)
            if self._received > self._limits.url + self._limits.head + _FRAMING * self._body.size:
                self._too_much_framing()
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif whole and self._last is not None and self._phase is Phase.IDLE:
            self._server.heads.learn(data, *self._last)

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
        if self._goes_on:
            return
        self._reset()
        self._enter(Phase.HEAD, self._limits.head_timeout)

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        if self._goes_on:
            return
        self._url += url
        if len(self._url) > self._limits.url:
            self._note(RequestError(414, f"The target is longer than {self._limits.url} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one behind a chunked body, which is read for its length only."""
        if self._goes_on:
            return
        self._header_bytes += len(name) + len(value)
        self._header_count += 1
        if self._header_count > self._limits.headers or self._header_bytes > self._limits.head:
            self._too_long_head()
            return
        if self._phase is Phase.BODY:
            return
        lowered, value = name.lower(), value.strip(b" \t")
        if lowered == b"host":
            if self._has_host or not is_host(value):
                self._note(RequestError(400, "A request needs one host header with one host."))
            self._has_host = True
        elif lowered == b"transfer-encoding":
            self._framing = b"transfer-encoding: chunked"
            if value.lower() != b"chunked":
                self._note(RequestError(400, "The only transfer-encoding that is understood is 'chunked'."))
        elif lowered == b"content-length":
            self._length = value
            self._framing = b"content-length: " + value
            if len(value) > 18 or (value.isdigit() and int(value) > self._limits.body):
                self._too_long_body()
        elif lowered in Head.READ:
            if lowered in self._fields:
                self._note(RequestError(400, f"The header {lowered.decode()!r} is there twice."))
            self._fields[lowered] = value
        elif lowered == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
            if not self._expects_continue:
                self._note(RequestError(417, "Only the expectation '100-continue' can be met."))
        elif lowered == b"content-encoding" and value.lower() != b"identity":
            self._note(RequestError(415, "Compressed bodies are not accepted; send it without content-encoding."))

    def on_headers_complete(self) -> None:
        """The body begins."""
        if self._goes_on:
            return
        self._method = self._parser.get_method()
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._note(RequestError(400, f"This is not HTTP/1.1: version {version}."))
        if version != "1.1":
            self._expects_continue = False
        elif not self._has_host:
            self._note(RequestError(400, "An HTTP/1.1 request needs a host header."))
        self._enter(Phase.BODY, self._limits.body_timeout)
        self._body_follows = self._framing != b"" and self._parser.should_upgrade()
        if self._expects_continue and self._refusal is None and not self._pipeline and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._count(len(data))
        if self._refusal is None:
            self._body.add(data)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._body_follows or self._refusal is not None or self._closing:
            return
        self._ended = (self._ended or 0) + self._body.size
        self._complete_body(self._body.whole())

    # the rest

    def body_written(self, count: int) -> None:
        """Bytes of a large body are where they stay."""
        if self._closing:  # it was refused meanwhile
            self._listen(self)
            self.data_received(bytes(count))
            return
        self._count(count)
        if self._refusal is not None:
            self._listen(self)
            self._refuse(self._refusal)

    def body_complete(self, body: bytes) -> None:
        """All of a large body is there."""
        self._listen(self)
        if not self._closing:
            self._complete_body(body)
            self._parser = httptools.HttpRequestParser(self)  # the old one waits for the body

    def _receive_directly(self) -> None:
        """Have the rest of a large body written to where it stays, unless so much memory is promised already."""
        size = int(self._length) if self._framing.startswith(b"content-length") else 0
        server, most = self._server, self._limits.bodies // 4
        if size - self._body.size < DIRECT or self._body.size > MOST_BEGUN or server.promised + size > most:
            return
        if self._paused or self._transport is None:
            return
        self._promised = size
        server.promised += size
        self._listen(DirectBody(self, self._transport, self._body.whole(), size))

    def _listen(self, protocol: asyncio.BaseProtocol) -> None:
        """Have the transport give what arrives to a protocol."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._transport.set_protocol(protocol)
            if not self._paused:
                self._transport.resume_reading()

    def _count(self, size: int) -> None:
        """Bytes of a body have arrived."""
        self._body.size += size
        self._server.held += size
        if self._body.size > self._limits.body:
            self._too_long_body()
        elif self._server.held > self._limits.bodies:
            self._note(RequestError(503, "Too many bytes are arriving at once.", retry_after=1))

    def _complete_body(self, body: bytes) -> None:
        self._let_go()
        head = self._parsed_head()
        closes = not self._parser.should_keep_alive()
        repeatable = not (closes or self._expects_continue) and self._length == b"%d" % len(body)
        self._last = (head, len(body)) if repeatable else None
        self._complete(head, body, closes=closes)

    def _parsed_head(self) -> Head:
        path = self._url.partition(b"?")[0].decode("latin-1")
        return Head(self._method.decode("latin-1"), path if path.startswith("/") else without_host(path), self._fields)

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
        if len(self._pipeline) >= self._limits.pipelined:
            self._pause()

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
                data = data[upgrade.args[0] :]
                self._go_on_without_upgrade()

    def _go_on_without_upgrade(self) -> None:
        """A new parser: the old one takes what follows for another protocol, also the body of this request.

        The new one hears of the head only what it needs to find the end of the body.
        """
        closes = b"" if self._parser.should_keep_alive() else b"connection: close\r\n"
        self._parser = httptools.HttpRequestParser(self)
        if self._body_follows:
            self._body_follows = False
            self._goes_on = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b%b\r\n\r\n" % (closes, self._framing))
            self._goes_on = False

    def _reset(self) -> None:
        self._method = b"GET"
        self._url = b""
        self._received = 0
        self._header_bytes = 0
        self._header_count = 0
        self._has_host = False
        self._expects_continue = False
        self._length = b"0"
        self._framing = b""
        self._body_follows = False
        self._fields: dict[bytes, bytes] = {}

    def _let_go(self) -> None:
        """Forget the body that was arriving."""
        self._server.held -= self._body.size
        self._server.promised -= self._promised
        self._body, self._promised = Body(), 0

    def _enter(self, phase: Phase, timeout: float | None) -> None:
        self._phase = phase
        self._deadline = _NEVER if timeout is None else self._time() + timeout

    def _note(self, error: RequestError) -> None:
        """Remember the first reason to refuse the request that is being parsed."""
        self._refusal = self._refusal or error

    def _too_long_head(self) -> None:
        limits = self._limits
        self._note(RequestError(431, f"At most {limits.headers} headers of {limits.head} bytes in all are accepted."))

    def _too_much_framing(self) -> None:
        if self._phase is Phase.HEAD:
            self._too_long_head()
        else:
            self._note(RequestError(400, "What surrounds the chunks of the body is far longer than what they hold."))

    def _too_long_body(self) -> None:
        self._note(RequestError(413, f"The body is larger than {self._limits.body} bytes."))

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error after the answers in hand, then close: the rest of the stream is not understood."""
        head = _NO_HEAD if self._phase is not Phase.BODY else self._parsed_head()
        self._server.refused(error.status)
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
