"""The port of a service, held for as long as the service exists while processes that answer on it come and go."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from ganglion.core.errors import ControlError, UserError
from ganglion.serving.gateway.tally import TALLY_BYTES, Tally

_BACKLOG = 1024
_PATIENCE = 10.0
_OTHER_HOST = "Give an address of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for all who reach it."
_REMEDIES = {
    errno.EADDRNOTAVAIL: _OTHER_HOST,
    errno.EADDRINUSE: "Give another port, or 0 for a free one.",
    errno.EACCES: "Give a port from 1024 on; those below are the system's.",
}


def hold_port(host: str, port: int) -> socket.socket:
    """Bind a port without listening; processes that set `SO_REUSEPORT` can listen on it.

    Args:
        host: an address of this machine.
        port: 0 chooses a free one.

    Raises:
        UserError: the port is taken or the address is not this machine's.
    """
    holder = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        if port:
            with socket.create_server((host, port), family=_family(host)):
                pass  # nobody else listens there, not even somebody who would share it
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
    except OSError as error:
        holder.close()
        raise _taken(host, port, error) from error
    return holder


class SharedPort:
    """A listening socket that gateways of this machine accept from together.

    There is one queue of connections, and it is not a gateway's: who has connected and not been accepted yet waits for
    another gateway when one dies, or for its replacement when it was the only one. (With a listening socket for each,
    by `SO_REUSEPORT`, the kernel resets what waits at the one that dies.)

    Gateways fetch the socket by `take_port`, together with a file in memory in which they count what all of them
    together are limited by. Their folder is for what they tell each other.

    Args:
        host: an address of this machine.
        port: 0 chooses a free one.

    Attributes:
        number: of the port.
        door: path of the Unix socket at which gateways fetch it; in a folder of its own, closed to other users.
        tally: what the gateways say there, for reading.

    Raises:
        UserError: the port is taken or the address is not this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            self._listener = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
        except OSError as error:
            raise _taken(host, port, error) from error
        self.number: int = self._listener.getsockname()[1]
        self._counts = tempfile.TemporaryFile()  # noqa: SIM115  for as long as the port
        self._counts.truncate(TALLY_BYTES)
        self.tally = Tally(self._counts.fileno(), 0)
        self._folder = Path(tempfile.mkdtemp(prefix="ganglion-"))
        self.door = str(self._folder / "port.sock")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(self.door)
        self._server.listen()
        self._closed = False
        self._thread = threading.Thread(target=self._hand_out, name="ganglion-port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take part in the port no longer; it is free once the last gateway has left it too."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
            waker.connect(self.door)
        self._thread.join()
        self._server.close()
        self._listener.close()
        self._counts.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hand_out(self) -> None:
        while True:
            connection, _address = self._server.accept()
            with connection:
                if self._closed:
                    return
                connection.settimeout(_PATIENCE)
                with suppress(OSError):  # it is gone: its replacement will ask
                    socket.send_fds(connection, [b"\0"], [self._listener.fileno(), self._counts.fileno()])


def take_port(door: str) -> tuple[socket.socket, int]:
    """Take part in a `SharedPort`.

    Args:
        door: path of its Unix socket.

    Returns:
        The listening socket, and the descriptor of the file of `ganglion.serving.gateway.tally.Tally`.

    Raises:
        ControlError: nobody holds the port on this machine.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE)
        try:
            client.connect(door)
            _data, descriptors, _flags, _address = socket.recv_fds(client, 1, 2)
        except OSError as error:
            raise ControlError(f"No port is held at {door}: {error.strerror or error}.") from error
    if len(descriptors) != 2:
        for descriptor in descriptors:
            os.close(descriptor)
        raise ControlError(f"The port at {door} is being closed.")
    return socket.socket(fileno=descriptors[0]), descriptors[1]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _taken(host: str, port: int, error: OSError) -> UserError:
    unknown = isinstance(error, socket.gaierror)  # its numbers are others than those of the system
    said = error.strerror if unknown or error.errno is None else os.strerror(error.errno)
    remedy = _OTHER_HOST if unknown else _REMEDIES.get(error.errno or 0, "")
    return UserError(f"Cannot serve at {host}:{port}: {said}. {remedy}".rstrip())
