"""What runs in every member around the entry: environment, control channel, heartbeat, exit report.

A backend calls `run` in the main thread of the member's process and keeps the report that it is given.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import hmac
import math
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import psutil

from ganglion.core.registry import add_to_path
from ganglion.execution.backend import Launch
from ganglion.execution.control import (
    Accuse,
    AnyDown,
    FrameReader,
    Hello,
    Joined,
    Message,
    Pulse,
    Reach,
    Ready,
    Report,
    Sample,
    Up,
    encode,
)
from ganglion.execution.entry import Entry
from ganglion.execution.exits import AgentReport
from ganglion.execution.member import Member, connect, set_current_member
from ganglion.execution.presence import PULSE, UNANSWERED
from ganglion.execution.rendezvous import environment, hold_port
from ganglion.execution.spec import Gang, MemberPlan, OnControlLoss, Service, Task, plan_members

SAMPLE_INTERVAL = 2.0
"""Seconds between two samples; one more is sent at the end."""

FIRST_SAMPLE = 0.1
"""Seconds until the first sample of an entry that takes longer than that."""

REDIAL_INTERVAL = 0.2
"""Seconds between two attempts to reach a new controller, or one that was cut off."""

CUT_OFF = 60.0
"""Seconds for which a member that stops with its controller waits for one that it cannot reach."""

_UNREACHABLE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)

_PAGE = os.sysconf("SC_PAGE_SIZE")
_ALLOCATION_WORDS = ("can't allocate memory", "cannot allocate memory", "std::bad_alloc", "out of memory")


class Terminated(BaseException):
    """Raised in the entry of a task or gang member when it is asked to end (SIGTERM), so that it can clean up."""


def run(
    plan: MemberPlan,
    launch: Launch,
    *,
    listen_at: str,
    open_log: Callable[[], None],
    save: Callable[[AgentReport], None],
    abandon: Callable[[], None],
) -> int:
    """Run the entry of a member to its end.

    Args:
        plan: what the member is.
        launch: attempt, control address and token.
        listen_at: where a replica opens its socket: `unix:PATH` or `tcp:HOST`.
        open_log: sends standard output and error to where they are kept; called before the entry is loaded.
        save: keeps the report; called once, before this function returns.
        abandon: ends the process and all it started, at once; called when the controller of a member that stops with
            it is gone.

    Returns:
        The exit status that the process should end with.

    Raises:
        Terminated: the process was asked to end and the entry let it happen; end by SIGTERM.
    """
    agent = _Agent(plan, launch, connect(launch.control), listen_at, open_log, abandon)
    try:
        report = agent.call()
    finally:
        agent.finished = True
    save(report)
    agent.measure()
    agent.hang_up()
    return report.code


def rehearse() -> None:
    """Go through the motions of a member whose entry does nothing, and undo what that changed.

    In a process that was forked, the first use of each page of memory is a copy, which costs more than what is done
    with it. A process that has rehearsed before it gets its plan is some milliseconds ahead.
    """
    task = Task(id="rehearsal", entry=Entry(path="builtins:int"))
    ours, theirs = socket.socketpair()
    handler = signal.getsignal(signal.SIGTERM)
    agent = _Agent(plan_members(task)[0], Launch(attempt=1, control="", token=""), ours, "", _nothing, _nothing)
    with theirs:
        msgspec.msgpack.encode(agent.call())
        agent.finished = True
        agent.measure()
    agent.follower.join()
    agent.hang_up()
    faulthandler.disable()
    signal.signal(signal.SIGTERM, handler)


def _nothing() -> None:
    """What a rehearsal does in place of what would be felt outside of the process."""


class _Agent:
    def __init__(
        self,
        plan: MemberPlan,
        launch: Launch,
        channel: socket.socket,
        listen_at: str,
        open_log: Callable[[], None],
        abandon: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.launch = launch
        self.open_log = open_log
        self.abandon = abandon
        self.finished = False
        self.endpoint = ""
        self.sample_at = time.monotonic() + FIRST_SAMPLE
        self.pulse_at = 0.0 if launch.control.startswith("tcp:") and _is_elastic(plan) else math.inf
        self.unanswered: float | None = None
        self.follower = threading.Thread(target=self.follow, name="ganglion-control", daemon=True)
        self.joined = threading.Event()
        self.lock = threading.Lock()
        self.channel = channel
        host = self.channel.getsockname()[0] if self.channel.family == socket.AF_INET else "127.0.0.1"
        self.port = hold_port(host) if isinstance(plan.spec, Gang) else None
        self.address = ":".join(map(str, self.port.getsockname()[:2])) if self.port else host
        self.member = Member(
            job=plan.spec.id,
            name=plan.member,
            role=plan.role,
            index=plan.index,
            attempt=launch.attempt,
            send=self.tell,
            listen_at=listen_at,
            secret=hmac.digest(launch.token.encode(), plan.spec.id.encode(), "sha256").hex(),
        )

    def call(self) -> AgentReport:
        """Prepare the process, wait for the gang, call the entry and describe how it went."""
        spec = self.plan.spec
        faulthandler.enable()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.terminate)
        os.environ.update(spec.environment)
        add_to_path(spec.import_path)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(spec.numerics.threads)
        set_current_member(self.member)
        try:
            self.greet()
            self.follower.start()
            self.open_log()
            if self.port is not None:
                self.joined.wait()
                os.environ.update(environment(self.member.membership, self.plan.member))
                self.port.close()
            value = spec.entry.load()(**spec.arguments)
            try:
                msgspec.msgpack.encode(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise TypeError(
                    f"{spec.entry} returned a {type(value).__name__}, which is not plain data: {error}"
                ) from error
        except Terminated:
            if isinstance(spec, Service):
                return AgentReport(succeeded=True)
            raise
        except SystemExit as error:
            return _exit_report(error)
        except BaseException as error:  # noqa: BLE001  # whatever the entry raises is its report
            return _error_report(error)
        return AgentReport(succeeded=True, value=value)

    def terminate(self, _signal: int, _frame: FrameType | None) -> None:
        first = not self.member.draining.is_set()
        self.member.draining.set()
        if first and not isinstance(self.plan.spec, Service):
            raise Terminated

    # the control channel

    def greet(self) -> None:
        self.push(
            Hello(
                job=self.plan.spec.id,
                member=self.plan.member,
                attempt=self.launch.attempt,
                token=self.launch.token,
                address=self.address,
                endpoint=self.endpoint,
            )
        )

    def push(self, message: Up) -> None:
        try:
            with self.lock:
                self.channel.sendall(encode(message))
        except OSError:
            pass  # the reading thread sees the same loss and acts on it

    def tell(self, kind: str, value: Any) -> None:
        if kind == "ready":
            self.endpoint = value
            self.push(Ready(endpoint=value))
        elif kind == "accuse":
            self.push(Accuse(member=value.member, attempt=value.attempt))
        elif kind == "reach":
            peer, works = value
            self.push(Reach(member=peer.member, attempt=peer.attempt, works=works))
        else:
            self.push(Report(values=value))

    def follow(self) -> None:
        """Read the control channel until the process ends, with a sample now and then; act on its loss."""
        decoder = msgspec.msgpack.Decoder(AnyDown)
        while True:
            reader = FrameReader()
            gone = True
            try:
                while data := self.receive():
                    for frame in reader.feed(data):
                        self.obey(decoder.decode(frame))
            except OSError as error:
                gone = error.errno not in _UNREACHABLE  # a reset is a loss like an end of file
            if self.finished:
                return
            if gone and self.stops:
                self.abandon()
            self.redial()

    def receive(self) -> bytes:
        """What comes next; signs of life go out while nothing does.

        Raises:
            OSError: the controller is gone, or cannot be reached.
        """
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        while True:
            self.speak()
            if poll.poll(1000.0 * max(0.0, min(self.sample_at, self.pulse_at) - time.monotonic())):
                self.unanswered = None
                return self.channel.recv(65536)
            if self.unanswered is not None and time.monotonic() - self.unanswered >= UNANSWERED and not poll.poll(0):
                raise TimeoutError(errno.ETIMEDOUT, "the controller does not answer")

    def speak(self) -> None:
        """Send the samples and pulses that are due."""
        now = time.monotonic()
        if now >= self.sample_at:
            self.sample_at = now + SAMPLE_INTERVAL
            self.measure()
        if now >= self.pulse_at:
            self.push(Pulse(gap=max(0.0, PULSE + now - self.pulse_at) if self.pulse_at else PULSE))
            self.pulse_at = now + PULSE
            self.unanswered = now if self.unanswered is None else self.unanswered

    @property
    def stops(self) -> bool:
        """Whether this process ends with its controller."""
        return self.plan.spec.on_control_loss is OnControlLoss.STOP

    def redial(self) -> None:
        """Dial until somebody answers: a new controller, or the old one, which could not be reached."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)  # so that nobody goes on writing to it
        self.unanswered = None
        self.pulse_at = 0.0 if self.pulse_at < math.inf else math.inf
        until = time.monotonic() + CUT_OFF
        while not self.finished:
            try:
                channel = connect(self.launch.control, UNANSWERED)
            except OSError as error:
                if self.stops and (isinstance(error, ConnectionRefusedError) or time.monotonic() >= until):
                    self.abandon()
                time.sleep(REDIAL_INTERVAL)
                continue
            channel.settimeout(None)
            with self.lock:
                self.channel.close()
                self.channel = channel
            self.greet()
            return

    def obey(self, message: AnyDown) -> None:
        match message:
            case Joined(membership=membership):
                self.member.membership = membership
                self.joined.set()
            case Message(value=value):
                self.member.messages.put(value)

    def hang_up(self) -> None:
        with self.lock:
            self.channel.close()

    def measure(self) -> None:
        memory, threads = _memory_and_threads()
        self.push(Sample(cpu_seconds=time.process_time(), memory=memory, threads=threads))


def _is_elastic(plan: MemberPlan) -> bool:
    return isinstance(plan.spec, Gang) and plan.spec.elastic


def _memory_and_threads() -> tuple[int, int]:
    """Resident bytes and threads of this process; where there is a `proc`, by one short read (see proc(5))."""
    try:
        with open("/proc/self/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except FileNotFoundError:
        process = psutil.Process()
        return process.memory_info().rss, process.num_threads()
    return int(fields[21]) * _PAGE, int(fields[17])


def _error_report(error: BaseException) -> AgentReport:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = str(error)
    failed = isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError)) and any(word in text.lower() for word in _ALLOCATION_WORDS)
    )
    return AgentReport(
        succeeded=False,
        error_type=name,
        message=text,
        traceback="".join(traceback.format_exception(error)),
        allocation_failed=failed,
        code=1,
    )


def _exit_report(error: SystemExit) -> AgentReport:
    """`sys.exit()` and `sys.exit(0)` are a success, everything else is the error it says it is."""
    if error.code is None or error.code == 0:
        return AgentReport(succeeded=True)
    code = error.code if isinstance(error.code, int) else 1
    return msgspec.structs.replace(_error_report(error), code=code)
