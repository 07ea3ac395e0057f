"""How the process of a warden comes to be: a new interpreter, or a fork of this process while it is as good as new."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol


class WardenProcess(Protocol):
    """A process as whoever started it sees it.

    Attributes:
        pid: its process id.
    """

    pid: int

    def kill(self) -> None:
        """End it at once."""
        ...

    def wait(self) -> None:
        """Wait for its end; returns at once when that was waited for already."""
        ...

    def leave(self) -> None:
        """Nobody will wait for its end."""
        ...


class SpawnedWarden:
    """A new interpreter.

    Args:
        channel: the warden's end of the socket through which it is told what to do.
        fork: it forks members from itself; else it starts an interpreter for each.
        preload: modules to import before the first fork.
        environment: all its variables.
        orphan: the process must not be a child of this one.
    """

    def __init__(
        self,
        channel: socket.socket,
        *,
        fork: bool,
        preload: Sequence[str],
        environment: Mapping[str, str],
        orphan: bool,
    ) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ganglion.backends.processes.warden"),
                *(str(channel.fileno()), "fork" if fork else "spawn", ",".join(preload)),
                *(("orphan",) if orphan else ()),
            ],
            env=environment,
            pass_fds=(channel.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()

    def leave(self) -> None:
        """Nobody will wait for its end, on purpose: no warning is given."""
        self._process.returncode = 0


class ForkedWarden:
    """A fork of this process: what this one has loaded, Python itself to begin with, both have in memory once.

    Only for a process with one thread that has opened nothing which members must not have. It forks members.

    Args:
        channel: the warden's end of the socket through which it is told what to do.
        ours: the other end, which it must not hold.
        preload: modules to import before the first member is forked.
        environment: all its variables.
    """

    def __init__(
        self, channel: socket.socket, ours: socket.socket, *, preload: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._over = False
        gc.freeze()  # a collection writes to all that it looks at, and what is written to is no longer shared
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # the fork has no session yet
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_warden(channel, ours, preload, environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def kill(self) -> None:
        """End it at once."""
        if not self._over:
            with contextlib.suppress(ProcessLookupError):  # where SIGCHLD is ignored, nothing is left of it
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for its end."""
        if not self._over:
            with contextlib.suppress(ChildProcessError):  # likewise
                os.waitpid(self.pid, 0)
            self._over = True

    def leave(self) -> None:
        """Nobody will wait for its end."""
        self._over = True


def _be_warden(
    channel: socket.socket, ours: socket.socket, preload: Sequence[str], environment: Mapping[str, str]
) -> NoReturn:
    """Be a warden in a fork, as in a new interpreter: nothing of what called this goes on."""
    status = 1
    try:
        from ganglion.backends.processes import warden  # whoever only starts one needs nothing of it

        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that was for the terminal's own processes
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # members are not to inherit what somebody has blocked
        ours.close()
        channel = _only_one_open(channel)
        os.environ.update(environment)
        warden.serve(channel, fork=True, preload=preload)
        status = 0
    except BaseException:  # noqa: BLE001  nobody is left to handle it
        traceback.print_exc()
    finally:
        os._exit(status)


def _only_one_open(channel: socket.socket) -> socket.socket:
    """Close everything but this and the standard error; there is nothing to read and to write instead of the others."""
    kept = socket.socket(fileno=fcntl.fcntl(channel.detach(), fcntl.F_DUPFD_CLOEXEC, 3))  # it may be one of the first
    nothing = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 3)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor != kept.fileno():
            with contextlib.suppress(OSError):  # the one through which they were listed
                os.close(descriptor)
    return kept


def thread_count() -> int:
    """Threads of this process, with those that Python does not know of where the system says how many there are."""
    try:
        return len(os.listdir("/proc/self/task"))
    except FileNotFoundError:
        return threading.active_count()
