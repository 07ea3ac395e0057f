"""Takes connections from a listening socket that several processes share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from ganglion.core.log import get_logger
from ganglion.serving.gateway.tally import CONNECTIONS, Tally

_PAUSE = 0.1
"""Seconds without accepting when the process or the machine can hold no more connections."""

_COURTESY = 0.002
"""Seconds for which a connection is left to others that hold fewer; they may be dead, so it is not for longer."""

_log = get_logger(part="serving.gateway")


class Acceptor:
    """Takes one connection at each turn of the loop, and leaves it to others for a moment while they hold fewer.

    (The loop's own server takes all that wait, and with that nearly all connections of a client that opens many.)

    Args:
        loop: the event loop.
        listener: a listening socket; stays open for the others.
        protocol: makes the protocol of a connection.
        held: how many connections this process holds.
        tally: where each process says so.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        held: Callable[[], int],
        tally: Tally,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._protocol = protocol
        self._held = held
        self._tally = tally
        self._waited = False
        self._beginning: set[asyncio.Task[None]] = set()
        self._closed = False
        listener.setblocking(False)
        self._leave_to_others()
        self._listen()

    async def close(self) -> None:
        """Take no more; returns when those that were taken are with their protocols."""
        self._closed = True
        self._tally.put(CONNECTIONS, 0)
        self._loop.remove_reader(self._listener)
        while self._beginning:
            await asyncio.wait(tuple(self._beginning))

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _leave_to_others(self) -> bool:
        """Say how many connections are held, and whether another process holds fewer."""
        mine = self._held() + len(self._beginning)
        self._tally.put(CONNECTIONS, mine + 1)  # zero is nobody
        return any(0 < count <= mine for count in self._tally.read(CONNECTIONS))

    def _accept(self) -> None:
        if not self._waited and self._leave_to_others():
            self._waited = True
            self._stop_for(_COURTESY)
            return
        self._waited = False
        try:
            connection, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client is gone
        except OSError as error:
            _log.error("accept_failed", error=error.strerror)
            self._stop_for(_PAUSE)
            return
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _stop_for(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._listen)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as error:  # its client is gone
            _log.info("connection_lost_at_once", error=str(error))
            connection.close()
