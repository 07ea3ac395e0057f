"""What a replica is at, to be seen by every gateway on its machine even when it has stopped or has died.

Several gateways share a replica, and each knows its own batches only: what it has sent may lie behind another one's.
So the replica writes the number of the batch that it begins, and when, into memory that a gateway finds through their
connection and goes on reading after the end of the process. It costs a replica less than a microsecond a batch, and a
gateway nothing before it wants to know. There is none between machines, nor where the system is not Linux.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_NAME = "ganglion-begun"
_PAGE = struct.Struct("<Qq")
_CREDENTIALS = struct.Struct("3i")
_COUNTED = 40
"""Bits of a batch's number in which a gateway counts; those above are the id of its process."""


class Begun(NamedTuple):
    """What a replica is at.

    Attributes:
        number: of the batch; 0 where it is at none.
        since: monotonic seconds at which it began it, or ended the one before.
    """

    number: int
    since: float


class BegunWriter:
    """The replica's end; belongs to the thread that answers."""

    def __init__(self) -> None:
        self._page: mmap.mmap | None = None
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create(_NAME)  # stays open: gateways find it among those of the process
            os.ftruncate(descriptor, _PAGE.size)
            self._page = mmap.mmap(descriptor, _PAGE.size)

    def write(self, number: int) -> None:
        """The batch with this number is begun; 0 when it has been answered."""
        if self._page is not None:
            _PAGE.pack_into(self._page, 0, number, time.monotonic_ns())


class BegunReader:
    """The gateway's end.

    Args:
        page: what a writer writes to; `None` where it cannot be seen.
    """

    def __init__(self, page: mmap.mmap | None) -> None:
        self._page = page

    @staticmethod
    def of(connection: socket.socket) -> BegunReader:
        """What the process at the other end of a connection is at."""
        return BegunReader(_find(connection))

    def read(self) -> Begun | None:
        """What the replica is at, or was at when it died; `None` where that cannot be seen."""
        if self._page is None:
            return None
        number, since = _PAGE.unpack_from(self._page)
        return Begun(number, since / 1e9)


def first_number() -> int:
    """From where a gateway numbers its batches, so that its numbers are no other gateway's."""
    return os.getpid() << _COUNTED


def _find(connection: socket.socket) -> mmap.mmap | None:
    if connection.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    folder = Path(f"/proc/{_CREDENTIALS.unpack(credentials)[0]}/fd")
    try:
        entries = list(folder.iterdir())
    except OSError:  # it has just ended, or is not ours to look at
        return None
    for entry in entries:
        with suppress(OSError, ValueError):  # it was closed meanwhile, perhaps
            if os.readlink(entry).startswith(f"/memfd:{_NAME}"):
                with entry.open("rb") as file:
                    return mmap.mmap(file.fileno(), _PAGE.size, prot=mmap.PROT_READ)
    return None
