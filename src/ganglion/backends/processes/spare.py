"""A process that was started ahead of its plan, so that a member runs user code as soon as it is asked for.

It has no plan, no log and no limits yet, and is used once: for one attempt of one member, or for none. When its warden
hangs up it ends. What is forked holds only what the warden had preloaded, nothing of any member: the code of a plan is
loaded once the plan has come. How many wait depends on what was asked for (`SparePolicy`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

import msgspec

from ganglion.backends.processes.wire import StartMember, encode
from ganglion.execution.spec import Service

FORKED_SPARES = 4
"""How many forked processes wait for a plan. After a fork each page that the warden writes to is a copy, so they are
made together, once most of them have been used."""

SPAWNED_SPARES = 2
"""How many new interpreters wait for a plan."""

FEW_SPARES = 1
"""With no more than this many left, others are made."""

FIRST_SPARES = 1
"""How many wait until it is known what is to run."""


class SparePolicy(msgspec.Struct):
    """How many processes wait for a plan, and when others are made; without I/O.

    Tasks and gangs start often, and what waits for a lost worker waits for its successor: several spares wait, and are
    replaced at once. Where only services run none waits: they start seldom, load for much longer than a fork takes, and
    are to need little memory.

    Attributes:
        fork: whether processes are forked.
        quick: whether a task or a member of a gang was ever asked for.
        lacking: whether others are to be made.
    """

    fork: bool
    quick: bool = False
    lacking: bool = True

    @property
    def most(self) -> int:
        """How many are made."""
        if not self.quick:
            return FIRST_SPARES
        return FORKED_SPARES if self.fork else SPAWNED_SPARES

    def note_start(self, request: StartMember, left: int) -> None:
        """A member was started, and so many spares are left."""
        self.quick = self.quick or not isinstance(request.plan.spec, Service)
        if not self.quick:
            self.lacking = False
        elif left <= FEW_SPARES:
            self.lacking = True

    def note_spare(self, count: int) -> None:
        """One more waits; now it is so many."""
        if count >= self.most:
            self.lacking = False

    def give_up(self) -> None:
        """None can be made, or one died; it is tried again after the next start."""
        self.lacking = False


class Spare:
    """A waiting process, as its warden knows it.

    Attributes:
        pid: its process id.
    """

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel

    def assign(self, request: StartMember) -> bool:
        """Make it a member, which waits for its log; false when it has died while it waited for this."""
        try:
            self._channel.sendall(encode(request))
        except OSError:
            self.hang_up()
            return False
        return True

    def give_log(self, log: int) -> None:
        """Let the member write to the open file `log`; there is nothing more to say to it."""
        with self._channel, contextlib.suppress(OSError):  # it is dead, and how that came is what is waited for
            socket.send_fds(self._channel, [b"\0"], [log])

    def hang_up(self) -> None:
        """Close this end; in a fork of the warden that leaves the process alone."""
        self._channel.close()

    def kill(self) -> None:
        """End it, unused; somebody has to wait for it."""
        self.hang_up()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def spawn_spare() -> Spare:
    """Start a new interpreter that waits for a plan."""
    ours, theirs = socket.socketpair()
    with theirs:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "ganglion.backends.processes.member_process", str(os.getpid())],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
            setpgroup=0,
            setsigdef=[signal.SIGCHLD],
        )
    return Spare(pid, ours)
