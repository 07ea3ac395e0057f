"""The connection to one replica; the end of the connection is the death of the replica.

A replica answers one batch after the other. A second one may lie ready for it, so that it need not wait for the gateway
between two short ones.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple, Protocol, cast

from ganglion.core.errors import ControlError
from ganglion.core.log import get_logger
from ganglion.serving import frames, wire
from ganglion.serving.begun import Begun, BegunReader, first_number
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.payload import CallPayload
from ganglion.serving.routes import ReplicaRoute
from ganglion.serving.runtime import Tensors

_RECONNECT = (0.05, 1.0)
"""Seconds before the first and, doubling, the last of repeated tries to connect."""

_JOINED = 2**18
"""Bytes of a batch up to which its parts are copied together and written at once."""

_SEND_BUFFER = 2**20
"""Bytes that a Unix socket to a replica holds, which is less by default than the batch that lies ready for it."""

_numbers = itertools.count(1)
_log = get_logger(part="serving.gateway")


class SentBatch(NamedTuple):
    """A batch that has not been answered.

    Attributes:
        number: that no other batch has, of whatever gateway.
        parts: in it.
        rows: its instances.
    """

    number: int
    parts: list[Part]
    rows: int


class LinkOwner(Protocol):
    """Who is told what happens on a link."""

    def link_free(self, link: ReplicaLink) -> None:
        """The link can take a batch, or one more."""
        ...

    def link_answered(self, link: ReplicaLink, rows: int, seconds: float) -> None:
        """The replica answered a batch of so many instances within `seconds`."""
        ...

    def link_lost(self, link: ReplicaLink, parts: list[Part], untouched: list[Part]) -> None:
        """The connection ended while the replica was at `parts`, and held others that it had not begun."""
        ...


class ReplicaLink(asyncio.Protocol):
    """A stream connection to a replica, made again for as long as the routes name the replica.

    Args:
        loop: the gateway's event loop.
        route: which replica.
        owner: who is told.

    Attributes:
        began: monotonic seconds at which the replica could begin the batch that it answers next.
        connected: whether the replica can take batches.
        retired: whether it is given no more.
        stalled: whether what it holds is tried elsewhere; until it answers or the connection ends.
        latency: what is known of its batches.
        rows: instances that have been sent and not answered.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, route: ReplicaRoute, owner: LinkOwner) -> None:
        self.route = route
        self.connected = False
        self.retired = False
        self.stalled = False
        self.latency = LatencyModel()
        self._loop = loop
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._reader = frames.FrameReader()
        self._sent: deque[SentBatch] = deque()
        self._first = first_number()
        self._page = BegunReader(None)
        self._answered = 0
        self.rows = 0
        self.began = 0.0
        self._connecting = loop.create_task(self._connect())

    @property
    def batches(self) -> int:
        """How many have been sent and not answered."""
        return len(self._sent)

    @property
    def calls(self) -> bool:
        """Whether it is at a call of a user's function, which may take any time."""
        return bool(self._sent) and isinstance(self._sent[0].parts[0].payload, CallPayload)

    @property
    def sent(self) -> Sequence[SentBatch]:
        """The batches themselves, in order."""
        return self._sent

    @property
    def begun(self) -> Begun | None:
        """What the replica is at, also for other gateways; `None` where that cannot be seen."""
        begun = self._page.read()
        if begun is not None and begun.number == self._answered:
            return Begun(0, begun.since)  # it has had no time to say so
        return begun

    @property
    def begun_parts(self) -> list[Part]:
        """The parts of the batch that it is at; where that cannot be seen, of the first one."""
        begun = self.begun
        found = (batch.parts for batch in self._sent if begun is None or batch.number == begun.number)
        return next(found, [])

    @property
    def parts(self) -> list[Part]:
        """The parts of these batches."""
        return [part for batch in self._sent for part in batch.parts]

    def send(self, parts: list[Part]) -> bool:
        """Give the replica a batch, only while it has fewer than two; whether it is answered already."""
        assert self._transport is not None
        assert len(self._sent) < 2
        if not self._sent:
            self.began = monotonic()
        number = self._first + next(_numbers)
        payloads = [part.payload for part in parts]
        rows = sum([payload.rows for payload in payloads])
        self._sent.append(SentBatch(number, parts, rows))
        self.rows += rows
        buffers = payloads[0].encode(number, payloads[1:])
        if sum([payload.size for payload in payloads]) < _JOINED:
            self._transport.write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)
        return False

    def retire(self) -> None:
        """Take no further batch, and close once those in hand are answered, or tried elsewhere."""
        self.retired = True
        if self.stalled:
            self.abort()
        elif not self._sent:
            self._close()

    def abort(self) -> None:
        """Cut the connection at once and make no other."""
        self.retired = True
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _connect(self, *, again: bool = False) -> None:
        delay, longest = _RECONNECT
        if again:  # the listener of a process that is dying can still accept, and would be given the same batch
            await asyncio.sleep(delay)
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
        self._reader = frames.FrameReader()
        connection = transport.get_extra_info("socket")
        self._page = BegunReader.of(connection)
        if connection.family == socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
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
            self._page = BegunReader(None)  # whatever it is at now, the first one is at fault
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The replica is gone, or the link was closed."""
        begun, sent = self.begun_parts, self._sent
        self._sent, self._page = deque(), BegunReader(None)
        self.rows = 0
        self.connected = False
        self._transport = None
        if not self.retired:
            self._connecting = self._loop.create_task(self._connect(again=True))
        self._owner.link_lost(self, begun, [part for batch in sent if batch.parts is not begun for part in batch.parts])
        self.stalled = False

    def _take(self, answer: wire.Answer, body: memoryview) -> None:
        if not self._sent or answer.id != self._sent[0].number:
            raise ControlError(f"An answer to batch {answer.id}, which was not asked.")
        outputs = wire.tensors_of(answer.tensors, body)
        _number, parts, rows = self._sent[0]
        called = type(parts[0].payload) is CallPayload
        fits = called or all(values.shape[:1] == (rows,) for values in outputs.values())
        if not fits or not (outputs or answer.failures):
            raise ControlError(f"An answer to {rows} instances with another number of predictions.")
        self._answered = self._sent.popleft().number
        self.rows -= rows
        self.stalled = False
        now = monotonic()
        if not called:
            self._owner.link_answered(self, rows, now - self.began)
        self.began = now
        if self.retired:
            if not self._sent:
                self._close()
        else:
            self._owner.link_free(self)  # first, so that the replica computes while answers are written
        if answer.failures:
            _distribute(parts, outputs, answer.failures)
            return
        if called:
            parts[0].prediction.complete(parts[0], outputs)
            return
        hand_out(parts, outputs)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def hand_out(parts: Sequence[Part], outputs: Tensors) -> None:
    """Give each part of a batch its outputs."""
    if len(parts) == 1:
        parts[0].prediction.complete(parts[0], outputs)
        return
    start = 0
    for part in parts:
        end = start + part.payload.rows
        part.prediction.complete(part, {name: values[start:end] for name, values in outputs.items()})
        start = end


def _distribute(parts: Sequence[Part], outputs: Tensors, failures: Sequence[wire.Failure]) -> None:
    """Give each part its outputs, or the first failure among its instances."""
    start = 0
    for part in parts:
        end = start + part.payload.rows
        failure = next((failure for failure in failures if start <= failure.row < end), None)
        if failure is None:
            part.prediction.complete(part, {name: values[start:end] for name, values in outputs.items()})
        else:
            called = isinstance(part.payload, CallPayload)
            late = called and part.deadline <= monotonic()  # the function was interrupted
            status = 400 if failure.invalid else 504 if late else 500
            where = "" if called else f"Instance {part.instance(failure.row - start)}: "
            part.prediction.fail(RequestError(status, f"{where}{failure.message}"))
        start = end
