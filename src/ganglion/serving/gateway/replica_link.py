"""The connection to one replica: one batch at a time; the end of the connection is the death of the replica."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Protocol, cast

from ganglion.core.errors import ControlError
from ganglion.core.log import get_logger
from ganglion.serving import wire
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.payload import encode_batch
from ganglion.serving.routes import ReplicaRoute

_RECONNECT = (0.05, 1.0)
"""Seconds before the first and, doubling, the last of repeated tries to connect."""

_numbers = itertools.count(1)
_log = get_logger(part="serving.gateway")


class LinkOwner(Protocol):
    """Who is told what happens on a link."""

    def link_free(self, link: ReplicaLink) -> None:
        """The link can take a batch."""
        ...

    def link_answered(self, parts: Sequence[Part]) -> None:
        """The replica answered a batch; the parts have their results."""
        ...

    def link_lost(self, link: ReplicaLink, parts: list[Part]) -> None:
        """The connection ended while the replica held `parts`."""
        ...


class ReplicaLink(asyncio.Protocol):
    """A stream connection to a replica, made again for as long as the routes name the replica.

    Args:
        loop: the gateway's event loop.
        route: which replica.
        owner: who is told.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, route: ReplicaRoute, owner: LinkOwner) -> None:
        self.route = route
        self.parts: list[Part] = []
        self.connected = False
        self.retired = False
        self._loop = loop
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._reader = wire.FrameReader()
        self._number = 0
        self._connecting = loop.create_task(self._connect())

    def send(self, parts: list[Part]) -> None:
        """Give the replica a batch; only when the link is free."""
        assert self._transport is not None
        assert not self.parts
        self.parts = parts
        self._number = next(_numbers)
        self._transport.writelines(encode_batch(self._number, [part.payload for part in parts]))

    def retire(self) -> None:
        """Take no further batch, and close once the one in hand is answered."""
        self.retired = True
        if not self.parts:
            self._close()

    def abort(self) -> None:
        """Cut the connection at once and make no other."""
        self.retired = True
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _connect(self) -> None:
        delay, longest = _RECONNECT
        kind, _, rest = self.route.endpoint.partition(":")
        while not self.retired:
            try:
                if kind == "unix":
                    await self._loop.create_unix_connection(lambda: self, rest)
                else:
                    host, _, port = rest.rpartition(":")
                    await self._loop.create_connection(lambda: self, host, int(port))
                return
            except OSError as error:
                _log.info("replica_unreachable", replica=self.route.id, error=str(error))
            await asyncio.sleep(delay)
            delay = min(longest, 2 * delay)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The replica accepted."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class has no common base
        self._reader = wire.FrameReader()
        if self.retired:
            self._close()
            return
        self.connected = True
        self._owner.link_free(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        try:
            for header, body in self._reader.feed(data):
                self._take(wire.decode_answer(header), body)
        except ControlError as error:
            _log.error("replica_broken", replica=self.route.id, error=str(error))
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The replica is gone, or the link was closed."""
        parts, self.parts = self.parts, []
        self.connected = False
        self._transport = None
        if not self.retired:
            self._connecting = self._loop.create_task(self._connect())
        self._owner.link_lost(self, parts)

    def _take(self, answer: wire.Answer, body: memoryview) -> None:
        if answer.id != self._number or not self.parts:
            raise ControlError(f"An answer to batch {answer.id}, which was not asked.")
        outputs = wire.tensors_of(answer.tensors, body)
        rows = sum(part.payload.rows for part in self.parts)
        if any(values.shape[:1] != (rows,) for values in outputs.values()) or not (outputs or answer.failures):
            raise ControlError(f"An answer to {rows} instances with another number of predictions.")
        parts, self.parts = self.parts, []
        start = 0
        for part in parts:
            end = start + part.payload.rows
            failure = next((failure for failure in answer.failures if start <= failure.row < end), None)
            if failure is None:
                part.prediction.complete(part, {name: values[start:end] for name, values in outputs.items()})
            else:
                status = 400 if failure.invalid else 500
                instance = part.first_row + failure.row - start
                part.prediction.fail(RequestError(status, f"Instance {instance}: {failure.message}"))
            start = end
        self._owner.link_answered(parts)
        if self.retired:
            self._close()
        else:
            self._owner.link_free(self)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
