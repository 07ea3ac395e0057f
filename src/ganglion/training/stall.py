"""Telling a process that has stopped working from one that a busy machine keeps waiting; pure but for what reads.

Time alone proves nothing: on a busy machine, or behind a slow source, everything takes long. What a process does while
others wait for it does. One that is stopped (`SIGSTOP`, a debugger) and has used no processor time since the last look
does not run until somebody continues it. One that is runnable, or waits for a disk or for data, is only slow.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from ganglion.execution.member import connect

STOPPED_FOR = 0.3
"""Seconds that a process is seen stopped before it counts as hung."""

_STOPPED = ("T", "t")
_CREDENTIALS = struct.Struct("3i")
_CONNECT_TIMEOUT = 1.0


class Reading(NamedTuple):
    """What the kernel tells of a process.

    Attributes:
        state: its letter; empty where nothing is told.
        ticks: processor time used, in clock ticks.
    """

    state: str
    ticks: int

    @property
    def seconds(self) -> float:
        """Processor time used."""
        return self.ticks / os.sysconf("SC_CLK_TCK")


def place() -> str:
    """Where the id of this process means something: this boot of this host, and its namespace of processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{socket.gethostname()} {file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def read(pid: int) -> Reading:
    """Look at a process of this host, as proc_pid_stat(5) describes it."""
    return _read(f"/proc/{pid}/stat")


def pid_behind(endpoint: str) -> int | None:
    """Which process of this host listens at an endpoint, if the kernel tells (unix(7)); it need not answer for that."""
    if not endpoint.startswith("unix:") or not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        with connect(endpoint, _CONNECT_TIMEOUT) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return _CREDENTIALS.unpack(credentials)[0] or None


def read_thread(number: int) -> Reading:
    """Look at a thread of this process."""
    return _read(f"/proc/self/task/{number}/stat")


def _read(path: str) -> Reading:
    try:
        with open(path, "rb") as file:
            fields = file.read(1024).rpartition(b")")[2].split()
        return Reading(fields[0].decode(), int(fields[11]) + int(fields[12]))
    except (OSError, IndexError):
        return Reading("", 0)


class StallWatch:
    """Looks at the processes that keep this one waiting.

    Args:
        pids: of the processes on this host, by rank.
        accuse: called once for each rank that has stopped working.
        look: reads a process.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pids: dict[int, int],
        accuse: Callable[[int], None],
        *,
        look: Callable[[int], Reading] = read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pids = pids
        self._accuse = accuse
        self._look = look
        self._clock = clock
        self._stopped: dict[int, tuple[float, Reading]] = {}
        self._accused: set[int] = set()

    def late(self, ranks: Collection[int]) -> None:
        """Look at those who are waited for; to be called a few times in a second while the wait lasts."""
        now = self._clock()
        for rank in ranks:
            if rank not in self._pids or rank in self._accused:
                continue
            reading = self._look(self._pids[rank])
            since, before = self._stopped.get(rank, (now, reading))
            if reading.state not in _STOPPED:
                self._stopped.pop(rank, None)
            elif reading != before:
                self._stopped[rank] = (now, reading)
            elif now - since >= STOPPED_FOR:
                self._accused.add(rank)
                self._accuse(rank)
            else:
                self._stopped[rank] = (since, reading)
