"""Asks the gateway from an event loop, over connections that are kept.

Many requests at a time, each on a connection of its own; what is cancelled cuts its connection, so that the gateway
drops the request too.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from ganglion.core.errors import ControlError
from ganglion.serving.grpc.translation import GatewayAnswer, GatewayRequest


class GatewayClient:
    """Connections to one gateway.

    Args:
        host: where it answers.
        port: where it answers.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        name = f"[{host}]" if ":" in host else host
        self._authority = f"{name}:{port}"
        self._idle: list[_Connection] = []

    async def ask(self, request: GatewayRequest) -> GatewayAnswer:
        """Send a request and wait for its answer.

        A kept connection may end just as it is used; then the request goes once more, over a new one.

        Raises:
            ControlError: no gateway answers.
        """
        while self._idle:
            kept = self._idle.pop()
            if not kept.usable:
                continue
            try:
                return await self._ask(kept, request)
            except ControlError:
                break
        loop = asyncio.get_running_loop()
        try:
            _transport, made = await loop.create_connection(_Connection, self._host, self._port)
        except OSError as error:
            raise ControlError(f"The gateway at {self._authority} does not answer: {error}.") from error
        return await self._ask(made, request)

    async def _ask(self, connection: _Connection, request: GatewayRequest) -> GatewayAnswer:
        size = sum(map(len, request.body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.fields.items())
        head = (
            f"{request.method} {request.path} HTTP/1.1\r\nhost: {self._authority}\r\ncontent-length: {size}\r\n"
            f"{lines}\r\n"
        )
        try:
            answer = await connection.ask((head.encode("latin-1"), *request.body))
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the connections that wait for a request."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time; a message of HTTP/1.1 comes back for each."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[GatewayAnswer] | None = None
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []

    async def ask(self, buffers: tuple[bytes, ...]) -> GatewayAnswer:
        if self._transport is None:
            raise ControlError("The gateway closed the connection.")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(buffers)
        return await self._answer

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class has no common base

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ControlError("The gateway ended before it answered."))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_begin(self) -> None:
        self._fields, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.usable = False
        answer = GatewayAnswer(self._parser.get_status_code(), self._fields, b"".join(self._body))
        self._fields, self._body = {}, []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
