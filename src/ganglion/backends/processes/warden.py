"""The process between a backend and its members: forks them, waits for them, ends them.

One warden serves one numerics environment. It imports the modules to preload before it does anything else and starts
no thread, so that a fork is safe (a *zygote*). Where forking is not possible or not wanted it starts a new interpreter
for each member instead; everything else stays the same. Either way a few processes are started ahead and wait for
plans (*spares*).

When its backend is gone, in whatever way, it kills the members that are tied to it and stays only as long as it has
others.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ganglion.backends.processes import member_process
from ganglion.backends.processes.attempts import EVIDENCE, IDENTITY, LOG, REPORT, write_atomically
from ganglion.backends.processes.memory import delegated_cgroup, leave_cgroup
from ganglion.backends.processes.spare import Spare, SparePolicy, spawn_spare
from ganglion.backends.processes.warden_process import thread_count
from ganglion.backends.processes.wire import Ended, Notice, Request, Started, StartMember, StopMember, encode
from ganglion.core.give_back import give_back_memory
from ganglion.core.registry import load_modules
from ganglion.execution.control import FrameReader
from ganglion.execution.exits import AgentReport, Evidence

_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


class _Member:
    """A process that was started and not yet waited for."""

    def __init__(self, request: StartMember, pid: int) -> None:
        self.request = request
        self.pid = pid
        self.kill_at: float | None = None


class Warden:
    """The loop of the warden process."""

    def __init__(self, channel: socket.socket, *, fork: bool) -> None:
        self.channel = channel
        self.fork = fork
        self.members: dict[int, _Member] = {}
        self.spares: list[Spare] = []
        self.policy = SparePolicy(fork)
        self.cgroup = delegated_cgroup()
        self.reader = FrameReader()
        self.decoder = msgspec.msgpack.Decoder(Request)
        self.connected = True
        self.selector = selectors.DefaultSelector()
        self.wake, self.woken = socket.socketpair()
        for end in (self.wake, self.woken):
            end.setblocking(False)
        self.selector.register(self.channel, selectors.EVENT_READ)
        self.selector.register(self.woken, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the backend is gone and no member is left."""
        while self.connected or self.members:
            ready = self.selector.select(self.patience())
            for key, _ in ready:
                if key.fileobj is self.woken:
                    with contextlib.suppress(BlockingIOError):
                        self.woken.recv(4096)
                else:
                    self.receive()
            self.reap()
            now = time.monotonic()
            for member in self.members.values():
                if member.kill_at is not None and now >= member.kill_at:
                    member.kill_at = now + 1.0
                    _kill_group(member.pid, signal.SIGKILL)
            if not ready and self.connected and self.policy.lacking:
                self.prepare()

    def patience(self) -> float | None:
        """Seconds until the next member has to be killed, none while a spare is to be made."""
        if self.connected and self.policy.lacking:
            return 0.0
        now = time.monotonic()
        return min(
            (max(0.0, member.kill_at - now) for member in self.members.values() if member.kill_at is not None),
            default=None,
        )

    def receive(self) -> None:
        """Carry out what the backend asks for; its end of file means that it is gone."""
        try:
            data = self.channel.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.lose_backend()
            return
        for frame in self.reader.feed(data):
            request = self.decoder.decode(frame)
            if isinstance(request, StartMember):
                self.start(request)
            else:
                self.stop(request)

    def lose_backend(self) -> None:
        """Kill whatever is tied to it."""
        self.connected = False
        self.selector.unregister(self.channel)
        self.channel.close()
        for spare in self.spares:
            spare.kill()
            os.waitpid(spare.pid, 0)
        self.spares.clear()
        for member in self.members.values():
            if member.request.tied:
                member.kill_at = time.monotonic() + 1.0
                _kill_group(member.pid, signal.SIGKILL)

    def start(self, request: StartMember) -> None:
        """Make a process the member: one that waits, else a new one."""
        folder = Path(request.key)
        member = None
        try:
            member = self.assign(request)  # it prepares itself while its folder is made
            folder.mkdir(parents=True, exist_ok=True)
            log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            member.give_log(log)
            os.close(log)
            now = time.time()
            write_atomically(folder / IDENTITY, msgspec.json.encode({"pid": member.pid, "at": now}))
        except OSError as error:
            if member is not None:
                member.kill()
            self.tell(Ended(key=request.key, at=time.time(), evidence=Evidence(note=f"could not be started: {error}")))
            return
        self.policy.note_start(request, len(self.spares))
        self.members[member.pid] = _Member(request, member.pid)
        self.tell(Started(key=request.key, at=now, pid=member.pid))

    def assign(self, request: StartMember) -> Spare:
        """Give the request to a process.

        Raises:
            OSError: there is no process to be had.
        """
        while self.spares:
            spare = self.spares.pop(0)
            if spare.assign(request):
                return spare
        spare = self.make_spare()
        if not spare.assign(request):
            raise OSError("a new process ended before it was told what to do")
        return spare

    def prepare(self) -> None:
        """Start a process for a member to come while there is nothing else to do."""
        try:
            self.spares.append(self.make_spare())
            self.policy.note_spare(len(self.spares))
        except OSError:
            self.policy.give_up()  # the member that needs it says why

    def make_spare(self) -> Spare:
        """Start a process that waits for its plan.

        Raises:
            OSError: there is none to be had.
        """
        return self.fork_spare() if self.fork else spawn_spare()

    def fork_spare(self) -> Spare:
        """Fork; safe only while this process has one thread."""
        if thread_count() != 1:
            raise OSError(f"after its preloads the zygote has {thread_count()} threads and cannot be forked safely")
        parent = os.getpid()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self.selector.close()
                for end in (self.channel, self.wake, self.woken, ours):
                    end.close()
                for spare in self.spares:
                    spare.hang_up()
                member_process.serve_once(theirs, parent)
            finally:
                os._exit(1)
        theirs.close()
        return Spare(pid, ours)

    def stop(self, request: StopMember) -> None:
        """Ask a member to end and remember when to kill it."""
        for member in self.members.values():
            if member.request.key == request.key:
                at = time.monotonic() + request.grace
                member.kill_at = at if member.kill_at is None else min(at, member.kill_at)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGTERM)
                    os.kill(member.pid, signal.SIGCONT)

    def reap(self) -> None:
        """Wait for every process that has ended and report it."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            member = self.members.pop(pid, None)
            if member is None:
                self.miss(pid)
                continue
            _kill_group(pid, signal.SIGKILL)
            if member.request.listen_at.startswith("unix:"):
                Path(member.request.listen_at.removeprefix("unix:")).unlink(missing_ok=True)
            folder = Path(member.request.key)
            evidence = Evidence(
                code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                report=_read_report(folder),
                memory_killed=self.cgroup is not None and leave_cgroup(self.cgroup, member_process.cgroup_name(folder)),
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                peak_memory=usage.ru_maxrss * _MEMORY_UNIT,
            )
            ended = Ended(key=member.request.key, at=time.time(), evidence=evidence)
            write_atomically(folder / EVIDENCE, msgspec.msgpack.encode(ended))
            self.tell(ended)

    def miss(self, pid: int) -> None:
        """A process that was no member ended; one that waited is replaced after a start, not again and again."""
        for spare in [spare for spare in self.spares if spare.pid == pid]:
            spare.hang_up()
            self.spares.remove(spare)
            self.policy.give_up()

    def tell(self, notice: Notice) -> None:
        """Send a notice to the backend, if it is still there."""
        if self.connected:
            try:
                self.channel.sendall(encode(notice))
            except OSError:
                self.lose_backend()


def serve(channel: socket.socket, *, fork: bool, preload: Sequence[str]) -> None:
    """Be a warden until the backend is gone and no member is left.

    Args:
        channel: brings requests and takes notices.
        fork: fork members from this process, or start an interpreter for each.
        preload: modules to import before the first fork.
    """
    if fork:
        for name in filter(None, ("cloudpickle", *preload)):
            with contextlib.suppress(Exception):  # the member's own import then fails with the traceback to show
                load_modules((name,))
        gc.collect()
        gc.freeze()
        give_back_memory()
    Warden(channel, fork=fork).run()


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or (macOS) only zombies are left
        os.killpg(pid, number)


def _read_report(folder: Path) -> AgentReport | None:
    try:
        return msgspec.msgpack.decode((folder / REPORT).read_bytes(), type=AgentReport)
    except FileNotFoundError:
        return None


def main() -> None:
    """`python -m ganglion.backends.processes.warden FD fork|spawn MODULES [orphan]`: serve at the socket `FD`.

    An `orphan` leaves its parent, so that whoever kills the children of that process does not take away what cleans up.
    """
    if "orphan" in sys.argv[4:] and os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # members are not to inherit what its parent has blocked
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    serve(channel, fork=sys.argv[2] == "fork", preload=sys.argv[3].split(","))


if __name__ == "__main__":
    main()
