"""Executes what the lifecycle machine decides: one thread, one queue, any number of jobs.

Backends and the control server put what happened into the queue; the thread feeds it to the machine of the job it
belongs to, carries out the instructions, and passes the events on to whoever submitted the job.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from ganglion.core.clock import Clock, SystemClock
from ganglion.core.errors import ControlError, SpecError
from ganglion.core.events import (
    Event,
    JobAdmitted,
    JobFinished,
    MemberExited,
    MemberJoined,
    MemberLeftOut,
    MemberReady,
    MemberReported,
    MemberReturned,
    MemberSampled,
)
from ganglion.core.log import get_logger
from ganglion.execution import instructions, signals
from ganglion.execution.backend import Backend, Handle, Launch
from ganglion.execution.channel import ControlServer
from ganglion.execution.control import Accuse, AnyUp, Hello, Joined, Message, Pulse, Reach, Ready, Report, Sample
from ganglion.execution.exits import Evidence, MemberEnded
from ganglion.execution.job_state import JobState
from ganglion.execution.lifecycle import advance, begin
from ganglion.execution.limits import deadline
from ganglion.execution.outcome import Outcome, OutcomeState
from ganglion.execution.spec import AnySpec

Listener = Callable[[Event], None]
"""Takes the events of a job, in order, in the supervisor's thread; returns at once."""


class Job:
    """A Task, Gang or Service under supervision.

    Attributes:
        spec: what was submitted.
    """

    def __init__(self, supervisor: Supervisor, state: JobState, listener: Listener | None) -> None:
        self.spec = state.spec
        self._supervisor = supervisor
        self._state = state
        self._listener = listener
        self._handles: dict[tuple[str, int], Handle] = {}
        self._over = threading.Event()

    @property
    def state(self) -> JobState:
        """What the lifecycle machine knows now."""
        return self._state

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the end of the job.

        Raises:
            TimeoutError: it was not over after `timeout` seconds; it goes on.
        """
        if not self._over.wait(timeout) or self._state.outcome is None:
            raise TimeoutError(f"{self.spec.id} was not over after {timeout} s.")
        return self._state.outcome

    def cancel(self) -> None:
        """End the job; what it was doing is lost."""
        self._supervisor.signal(self, signals.Cancel())

    def drain(self) -> None:
        """Let every member finish what it holds and end; the job then counts as succeeded."""
        self._supervisor.signal(self, signals.Drain())

    def scale(self, replicas: int) -> None:
        """Change the number of replicas of a service; none is allowed.

        Raises:
            SpecError: the number is negative.
        """
        if replicas < 0:
            raise SpecError(f"{self.spec.id} was asked for {replicas} replicas; at least 0 are possible.")
        self._supervisor.signal(self, signals.Scale(replicas))

    def replace(self, member: str) -> None:
        """End a member and start it again."""
        self._supervisor.signal(self, signals.Replace(member))

    def accuse(self, member: str, attempt: int) -> None:
        """Say that a replica of a service has stopped working: it is killed at once and counts as failed."""
        self._supervisor.signal(self, signals.Accused(member, attempt))

    def send(self, value: Any, member: str | None = None) -> None:
        """Send plain data to one joined member, or to all of them; it arrives in `Member.messages`."""
        names = [member] if member is not None else list(self._state.members)
        for name in names:
            self._supervisor.control.send(self.spec.id, name, Message(value=value))

    def logs(self, member: str | None = None, attempt: int | None = None) -> Iterator[tuple[str, int, bytes]]:
        """What the members have written so far: member, attempt and a chunk of bytes."""
        for (name, number), handle in sorted(self._handles.items()):
            if member in (None, name) and attempt in (None, number):
                for chunk in self._supervisor.backend.logs(handle):
                    yield name, number, chunk


class Supervisor:
    """Runs jobs on a backend.

    Attributes:
        backend: where they run.
        control: the server that their agents dial.
    """

    def __init__(self, backend: Backend, folder: Path, *, name: str = "main", clock: Clock | None = None) -> None:
        """Listen for agents and start the thread.

        Args:
            backend: where members run; closed with the supervisor.
            folder: the project folder; with `name` it makes the address of the control channel on this machine, so
                that a supervisor of the same name is found by the services that an earlier one left running.
            name: unique among the living supervisors of the project.
            clock: for event times and deadlines.
        """
        self.backend = backend
        self._folder = folder
        self._clock = clock or SystemClock()
        self._token_file = folder / "control" / f"{name}.token"
        self._token = _token(self._token_file)
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        where = f"tcp:{backend.control_host}" if backend.control_host else f"unix:{_socket_path(folder, name)}"
        self.control = ControlServer(where, self._token, self._receive)
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="ganglion-supervisor", daemon=True)
        self._thread.start()

    def submit(self, spec: AnySpec, listener: Listener | None = None) -> Job:
        """Run `spec`.

        Args:
            spec: what to run; its id must be new.
            listener: gets every event of the job.

        Raises:
            SpecError: the backend can never run it, or its arguments are not plain data.
            ControlError: the supervisor is closed, or the id is taken.
        """
        if self._closed or spec.id in self._jobs:
            raise ControlError(f"{spec.id}: " + ("the supervisor is closed." if self._closed else "the id is taken."))
        try:
            msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=AnySpec)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"{spec.id}: what its processes are to be told is not plain data: {error}.") from error
        plans = self.backend.render(spec, self.backend.capacity())
        job = Job(self, begin(spec, plans), listener)
        self._jobs[spec.id] = job
        self.signal(job, signals.Submitted())
        return job

    def signal(self, job: Job, signal: signals.Signal) -> None:
        """Tell the machine of `job` something; from any thread."""
        self._queue.put((job.spec.id, signal))

    def close(self, timeout: float = 15.0) -> None:
        """Cancel every job, wait for their ends (at most `timeout` seconds), and close the backend."""
        if self._closed:
            return
        self._closed = True
        for job in list(self._jobs.values()):
            job.cancel()
        end = self._clock.monotonic() + timeout
        for job in list(self._jobs.values()):
            job._over.wait(max(0.0, end - self._clock.monotonic()))
        self._queue.put(None)
        self._thread.join()
        self.backend.close()
        self.control.close()
        self._token_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # in use by another supervisor of the project
            runtime_folder(self._folder).rmdir()

    # from other threads

    def _sink(self, event: Event) -> None:
        """Queue an event; an end waits until everything that the member had said before it is in the queue."""
        if isinstance(event, MemberEnded):
            self.control.settle(event.job, event.member, lambda: self._queue.put((event.job, event)))
        else:
            self._queue.put((event.job, event))

    def _receive(self, hello: Hello, message: AnyUp) -> None:
        at = self._clock.now()
        job, member, attempt = hello.job, hello.member, hello.attempt
        match message:
            case Hello():
                self._queue.put((job, message))
            case Ready(endpoint=endpoint):
                self._sink(MemberReady(at=at, job=job, member=member, attempt=attempt, endpoint=endpoint))
            case Report(values=values):
                self._sink(MemberReported(at=at, job=job, member=member, attempt=attempt, values=values))
            case Pulse(gap=gap):
                self._queue.put((job, signals.Alive(member, attempt, gap)))
            case Accuse(member=accused, attempt=number):
                self._queue.put((job, signals.Accused(accused, number)))
            case Reach(member=peer, attempt=number, works=works):
                self._queue.put((job, signals.Reached(member, attempt, peer, number, works)))
            case Sample(cpu_seconds=cpu, memory=memory, threads=threads):
                self._sink(
                    MemberSampled(
                        at=at, job=job, member=member, attempt=attempt, cpu_seconds=cpu, memory=memory, threads=threads
                    )
                )

    # the thread

    def _loop(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._patience())
            except queue.Empty:
                for job in list(self._jobs.values()):
                    self._guarded(job, signals.Tick())
                continue
            if item is None:
                return
            name, happened = item
            if name in self._jobs:
                self._guarded(self._jobs[name], happened)

    def _guarded(self, job: Job, happened: signals.Signal | Event | Hello) -> None:
        try:
            self._take(job, happened)
        except Exception as error:  # noqa: BLE001  # one job that breaks a rule must not end all others
            self._abandon(job, error)

    def _patience(self) -> float | None:
        times = [at for job in list(self._jobs.values()) if (at := deadline(job.state)) is not None]
        return max(0.0, min(times) - self._clock.monotonic()) if times else None

    def _take(self, job: Job, happened: signals.Signal | Event | Hello) -> None:
        """Translate what happened into a signal; events are passed on once the machine has taken them in."""
        match happened:
            case signals.Signal():
                self._advance(job, happened)
                return
            case Hello(member=member, attempt=attempt, address=address, endpoint=endpoint):
                self._notify(
                    job,
                    MemberJoined(
                        at=self._clock.now(), job=job.spec.id, member=member, attempt=attempt, address=address
                    ),
                )
                self._advance(job, signals.Joined(member, attempt, address, endpoint))
                return
            case MemberEnded():
                self._end(job, happened)
                return
            case JobAdmitted(members=members):
                self._notify(job, happened)
                self._advance(job, signals.Admitted(members))
            case MemberReady(member=member, attempt=attempt, endpoint=endpoint):
                self._advance(job, signals.Ready(member, attempt, endpoint))
                self._notify(job, happened)
            case MemberSampled(member=member, attempt=attempt) | MemberReported(member=member, attempt=attempt):
                self._advance(job, signals.Alive(member, attempt))
                self._notify(job, happened)
            case Event():
                self._notify(job, happened)

    def _end(self, job: Job, ended: MemberEnded) -> None:
        """Let the machine classify the end, tell the listener, then carry out what follows from it."""
        before = job.state
        signal = signals.Ended(ended.member, ended.attempt, ended.evidence)
        job._state, orders = advance(before, signal, self._clock.monotonic())
        member = job.state.members.get(ended.member)
        earlier = before.members.get(ended.member)
        if member is not None and member.exit is not None and (earlier is None or member.exit is not earlier.exit):
            self._notify(
                job,
                MemberExited(at=ended.at, job=ended.job, member=ended.member, attempt=ended.attempt, exit=member.exit),
            )
        for order in orders:
            self._execute(job, order)

    def _abandon(self, job: Job, error: Exception) -> None:
        """End a job that cannot be carried on: something below broke its contract."""
        get_logger(job=job.spec.id).error("a job had to be given up", exc_info=True)
        for handle in job._handles.values():
            self.backend.stop(handle, 0.0)
        message = f"could not be carried on: {type(error).__name__}: {error}"
        outcome = Outcome(state=OutcomeState.FAILED, message=message)
        job._state = msgspec.structs.replace(job.state, outcome=outcome)
        self.backend.release([member.plan for member in job.state.members.values()])
        self._execute(job, instructions.Finish(outcome))

    def _advance(self, job: Job, signal: signals.Signal) -> None:
        job._state, orders = advance(job.state, signal, self._clock.monotonic())
        for order in orders:
            self._execute(job, order)

    def _notify(self, job: Job, event: Event) -> None:
        if job._listener is None:
            return
        try:
            job._listener(event)
        except Exception:  # noqa: BLE001  # a faulty listener must not stop every other job
            get_logger(job=job.spec.id).error("a listener raised an exception", exc_info=True)

    def _execute(self, job: Job, order: instructions.Instruction) -> None:
        match order:
            case instructions.Reserve(plans=plans):
                self.backend.reserve(plans, self._sink)
            case instructions.Release(plans=plans):
                self.backend.release(plans)
            case instructions.Start(plan=plan, attempt=attempt):
                launch = Launch(attempt=attempt, control=self.control.address, token=self._token)
                try:
                    handle = self.backend.start(plan, launch)
                except ControlError as error:
                    self._sink(
                        MemberEnded(
                            at=self._clock.now(),
                            job=job.spec.id,
                            member=plan.member,
                            attempt=attempt,
                            evidence=Evidence(note=f"could not be started: {error}"),
                        )
                    )
                else:
                    job._handles[plan.member, attempt] = handle
                    self.backend.observe(handle, self._sink)
            case instructions.Stop(member=member, attempt=attempt, grace=grace):
                if (member, attempt) in job._handles:
                    self.backend.stop(job._handles[member, attempt], grace)
            case instructions.Broadcast(membership=membership):
                for peer in membership.peers:
                    self.control.send(job.spec.id, peer.member, Joined(membership=membership))
            case instructions.LeaveOut() | instructions.TakeBack():
                kind = MemberLeftOut if isinstance(order, instructions.LeaveOut) else MemberReturned
                self._notify(job, kind(at=self._clock.now(), job=job.spec.id, **msgspec.structs.asdict(order)))
            case instructions.Finish(outcome=outcome):
                finished = JobFinished(
                    at=self._clock.now(), job=job.spec.id, state=outcome.state.value, message=outcome.message
                )
                self._notify(job, finished)
                del self._jobs[job.spec.id]
                job._over.set()


def _token(path: Path) -> str:
    """The secret that this supervisor's agents know, kept so that a successor of the same name knows it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    token = secrets.token_hex(16)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    return token


def runtime_folder(folder: Path) -> Path:
    """A short private folder for the Unix sockets of a project: their paths must stay under about 100 bytes."""
    digest = blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    path = base / f"ganglion-{os.getuid()}-{digest}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise ControlError(f"{path} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of your own.")
    return path


def _socket_path(folder: Path, name: str) -> Path:
    return runtime_folder(folder) / f"{name}.sock"
