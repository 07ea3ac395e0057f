"""The supervisor's end of the control channel: one thread that accepts agents, reads them and writes to them."""

from __future__ import annotations

import contextlib
import hmac
import os
import selectors
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from ganglion.core.errors import ControlError
from ganglion.core.log import get_logger
from ganglion.execution.control import AnyDown, AnyUp, Echo, FrameReader, Hello, Pulse, encode
from ganglion.execution.member import break_when_dead

Receive = Callable[[Hello, AnyUp], None]
"""Takes the greeting of a connection and a message from it (the greeting itself first); returns at once."""


class _Connection:
    """One agent."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.reader = FrameReader()
        self.hello: Hello | None = None
        self.outbox = bytearray()


class ControlServer:
    """Listens for agents.

    Attributes:
        address: what agents dial: `unix:PATH` or `tcp:HOST:PORT`.
    """

    def __init__(self, where: str, token: str, receive: Receive) -> None:
        """Listen and start the thread.

        Args:
            where: `unix:PATH`, or `tcp:HOST` for a port of the system's choice.
            token: what an agent's greeting has to carry.
            receive: called in the server's thread.
        """
        self._token = token
        self._receive = receive
        self._listener, self.address = _listen(where)
        self._connections: dict[tuple[str, str], _Connection] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._closing = False
        self._settling: list[tuple[tuple[str, str], Callable[[], None]]] = []
        self._decoder = msgspec.msgpack.Decoder(AnyUp)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, name="ganglion-control", daemon=True)
        self._thread.start()

    def send(self, job: str, member: str, message: AnyDown) -> bool:
        """Queue a message for a member; false when it is not connected."""
        with self._lock:
            connection = self._connections.get((job, member))
            if connection is None:
                return False
            connection.outbox += encode(message)
        self._call()
        return True

    def settle(self, job: str, member: str, then: Callable[[], None]) -> None:
        """Take in all that a member whose process is gone has sent, then call `then` in the server's thread."""
        with self._lock:
            self._settling.append(((job, member), then))
        self._call()

    def close(self) -> None:
        """Close every connection and end the thread."""
        self._closing = True
        self._call()
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _call(self) -> None:
        """Wake the thread."""
        with contextlib.suppress(OSError):  # it has been called often enough, or has ended
            self._wake.send(b"\0")

    def _loop(self) -> None:
        while not self._closing:
            for key, events in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(65536)
                    self._arm()
                    self._settle()
                else:
                    self._serve(key.data, events)
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._woken:
                key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
        self._selector.close()
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)

    def _accept(self) -> bool:
        try:
            channel, _ = self._listener.accept()
        except BlockingIOError:
            return False
        channel.setblocking(False)
        if channel.family != socket.AF_UNIX:
            break_when_dead(channel)
        self._selector.register(channel, selectors.EVENT_READ, _Connection(channel))
        return True

    def _settle(self) -> None:
        with self._lock:
            settling, self._settling = self._settling, []
        if not settling:
            return
        while self._accept():
            pass
        for member, then in settling:
            for key in list(self._selector.get_map().values()):
                hello = key.data.hello if isinstance(key.data, _Connection) else None
                if isinstance(key.data, _Connection) and (hello is None or (hello.job, hello.member) == member):
                    while self._serve(key.data, selectors.EVENT_READ):
                        pass
            then()

    def _arm(self) -> None:
        """Ask to write on every connection that has something to write."""
        with self._lock:
            for connection in self._connections.values():
                if connection.outbox:
                    self._selector.modify(connection.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _serve(self, connection: _Connection, events: int) -> bool:
        """Read once and write once, as `events` says; false when there is nothing more to read."""
        try:
            if events & selectors.EVENT_WRITE:
                self._write(connection)
            if events & selectors.EVENT_READ:
                data = connection.channel.recv(65536)
                if not data:
                    raise ConnectionResetError
                for frame in connection.reader.feed(data):
                    self._take(connection, self._decoder.decode(frame))
        except BlockingIOError:
            return False
        except (OSError, ControlError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            if not isinstance(error, OSError):
                get_logger().warning("control connection refused", reason=str(error))
            self._drop(connection)
            return False
        return True

    def _take(self, connection: _Connection, message: AnyUp) -> None:
        if connection.hello is None:
            if not isinstance(message, Hello) or not hmac.compare_digest(message.token.encode(), self._token.encode()):
                raise ControlError("The first message was not a greeting with the right token.")
            connection.hello = message
            with self._lock:
                self._connections[message.job, message.member] = connection
        if isinstance(message, Pulse):
            with self._lock:
                connection.outbox += encode(Echo())
            self._write(connection)
        self._receive(connection.hello, message)

    def _write(self, connection: _Connection) -> None:
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                del connection.outbox[: connection.channel.send(connection.outbox)]
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outbox else 0)
            self._selector.modify(connection.channel, wanted, connection)

    def _drop(self, connection: _Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):  # dropped already, while its process was being settled
            self._selector.unregister(connection.channel)
        connection.channel.close()
        hello = connection.hello
        with self._lock:
            if hello is not None and self._connections.get((hello.job, hello.member)) is connection:
                del self._connections[hello.job, hello.member]


def _listen(where: str) -> tuple[socket.socket, str]:
    kind, _, rest = where.partition(":")
    if kind == "tcp":
        listener = socket.create_server((rest, 0), backlog=1024)
        host, port = listener.getsockname()[:2]
        address = f"tcp:{host}:{port}"
    else:
        path = Path(rest)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(rest)
        os.chmod(rest, 0o600)
        listener.listen(1024)
        address = where
    listener.setblocking(False)
    return listener, address
