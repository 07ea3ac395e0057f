"""A process that was started ahead of its plan, so that a member runs user code as soon as it is asked for.

It has no plan, no log and no limits yet, and is used once: for one attempt of one member, or for none. When its warden
hangs up it ends. What is forked holds only what the warden had preloaded, nothing of any member: the code of a plan is
loaded once the plan has come.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

from ganglion.backends.processes.wire import StartMember, encode


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
