"""Objects and open files sent between a process and those that it started, over a pair of sockets."""

from __future__ import annotations

import array
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

_HEADER = struct.Struct("<Q")
_DESCRIPTORS = 4


class ObjectChannel:
    """One end; the other end is in a process of the same program, so what comes is trusted.

    Args:
        end: a connected stream socket, which the channel owns.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """The descriptor, for waiting until something has come."""
        return self._end.fileno()

    def send(self, value: Any, descriptors: Sequence[int] = ()) -> None:
        """Send an object that can be pickled, and copies of open files.

        Raises:
            OSError: the other end is gone.
        """
        data = pickle.dumps(value, protocol=5)
        header = _HEADER.pack(len(data))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self._end.sendmsg([header], rights)
        self._end.sendall(header[sent:] + data if sent < len(header) else data)

    def receive(self) -> tuple[Any, list[int]]:
        """The next object, and descriptors of the files that came with it, which the caller owns.

        Raises:
            EOFError: the other end is gone.
        """
        header, descriptors, _, _ = socket.recv_fds(self._end, _HEADER.size, _DESCRIPTORS)
        header += self._exactly(_HEADER.size - len(header)) if header else b""
        if not header:
            raise EOFError("the other end of the channel is gone")
        return pickle.loads(self._exactly(_HEADER.unpack(header)[0])), descriptors

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._end.recv_into(view)
            if count == 0:
                raise EOFError("the other end of the channel is gone")
            view = view[count:]
        return data
