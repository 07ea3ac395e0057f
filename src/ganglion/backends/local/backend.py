"""`LocalBackend`: Tasks, Gangs and Services as processes on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import psutil

from ganglion.backends.local.ledger import Grant, Ledger
from ganglion.backends.processes.attempts import EVIDENCE, LOG, identify
from ganglion.backends.processes.layout import lay_out
from ganglion.backends.processes.wardens import Wardens
from ganglion.backends.processes.wire import Ended, Notice, Started, StartMember
from ganglion.core.config import Config
from ganglion.core.errors import SpecError
from ganglion.core.events import JobAdmitted, MemberStarted
from ganglion.core.resources import Resources, cores
from ganglion.execution.backend import Capacity, Handle, Launch, Sink
from ganglion.execution.exits import Evidence, MemberEnded
from ganglion.execution.spec import AnySpec, MemberPlan, Numerics, OnControlLoss
from ganglion.execution.supervisor import runtime_folder

POLL_INTERVAL = 0.2
"""Seconds between two looks at a member that an earlier controller started."""


class LocalConfig(Config, frozen=True, kw_only=True):
    """Options of the local backend.

    Attributes:
        cpu: cores to hand out; `None` for all that this process may use.
        memory: bytes to hand out; `None` for all that the machine has.
        gpu: devices to hand out.
        start_method: `fork` from a warm zygote, or `spawn` an interpreter for each member; `auto` forks on Linux.
        cgroup: limit memory by cgroup v2 where it is delegated to this process.
    """

    cpu: float | None = None
    memory: int | None = None
    gpu: float = 0.0
    start_method: str = "auto"
    cgroup: bool = True

    def __post_init__(self) -> None:
        if self.start_method not in ("auto", "fork", "spawn"):
            raise SpecError(f"start_method is {self.start_method!r}; allowed: auto, fork, spawn.")


class _Attempt:
    """What is known of one attempt that somebody observes."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.started: MemberStarted | None = None
        self.ended: MemberEnded | None = None


class LocalBackend:
    """Processes on this machine; see `execution.backend.Backend` for the contract."""

    name = "local"
    control_host: str | None = None

    def __init__(self, folder: Path, config: LocalConfig | None = None) -> None:
        """Account for this machine; no process is started yet.

        Args:
            folder: the project folder; attempts live in `jobs/<job>/<member>/<attempt>`.
            config: what to hand out, and how to start members.
        """
        config = config or LocalConfig()
        self._folder = folder.resolve()
        fork = config.start_method == "fork" or (config.start_method == "auto" and sys.platform == "linux")
        self._cgroup = config.cgroup
        self._ledger = Ledger(
            Resources(
                cpu=float(cores()) if config.cpu is None else config.cpu,
                memory=psutil.virtual_memory().total if config.memory is None else config.memory,
                gpu=config.gpu,
            )
        )
        self._lock = threading.RLock()
        self._wardens = Wardens(self._receive, fork=fork)
        self._attempts: dict[str, _Attempt] = {}
        self._closed = threading.Event()
        self._watchers: list[threading.Thread] = []

    def capacity(self) -> Capacity:
        """What this machine was declared to have."""
        return Capacity(nodes=(self._ledger.declared,))

    def render(self, spec: AnySpec, capacity: Capacity) -> tuple[MemberPlan, ...]:
        """Lay `spec` out; refuses what this machine can never hold."""
        return lay_out(
            spec,
            capacity,
            holder="this machine declares",
            remedy="Ask for less, or declare more ([execution.local] cpu, memory, gpu).",
        )

    def warm(self, numerics: Numerics, preload: tuple[str, ...], *, share: bool = False) -> None:
        """Start to load `preload`; whoever asks for all of it or a part is forked from there.

        To be shared, this process must have no thread yet but this one; else as without.
        """
        self._wardens.warm(numerics, preload, share=share)

    def reserve(self, plans: Sequence[MemberPlan], sink: Sink) -> None:
        """Queue for the resources of `plans`; starts to load what they preload."""
        names = tuple(plan.member for plan in plans)
        job = plans[0].spec.id

        def grant() -> None:
            sink(JobAdmitted(at=time.time(), job=job, members=names))

        with self._lock:
            grants = self._ledger.ask(plans, grant)
        self.warm(plans[0].spec.numerics, plans[0].spec.preload)
        _run(grants)

    def release(self, plans: Sequence[MemberPlan]) -> None:
        """Free what `plans` hold or wait for."""
        with self._lock:
            grants = self._ledger.give_back(plans)
        _run(grants)

    def start(self, plan: MemberPlan, launch: Launch) -> Handle:
        """Have the warden create the process."""
        key = str(self._folder / "jobs" / plan.spec.id / plan.member / str(launch.attempt))
        request = StartMember(
            key=key,
            plan=plan,
            launch=launch,
            listen_at=f"unix:{self._socket(key)}",
            tied=plan.spec.on_control_loss is OnControlLoss.STOP,
            use_cgroup=self._cgroup,
        )
        with self._lock:
            if key not in self._attempts:
                self._attempts[key] = _Attempt()
                self._wardens.start(request)
        return Handle(
            backend=self.name,
            job=plan.spec.id,
            member=plan.member,
            attempt=launch.attempt,
            reference={"folder": key},
        )

    def observe(self, handle: Handle, sink: Sink) -> None:
        """Follow an attempt; one that another controller started is watched by its process id."""
        key = str(handle.reference["folder"])
        with self._lock:
            attempt = self._attempts.get(key)
            if attempt is None:
                attempt = self._attempts[key] = _Attempt()
                watcher = threading.Thread(target=self._watch, args=(handle,), name="ganglion-watch", daemon=True)
                self._watchers.append(watcher)
                watcher.start()
            attempt.sinks.append(sink)
            known = [event for event in (attempt.started, attempt.ended) if event is not None]
        for event in known:
            sink(event)

    def logs(self, handle: Handle) -> Iterator[bytes]:
        """What the attempt has written so far."""
        with contextlib.suppress(FileNotFoundError), open(Path(str(handle.reference["folder"])) / LOG, "rb") as file:
            while chunk := file.read(65536):
                yield chunk

    def stop(self, handle: Handle, grace: float) -> None:
        """SIGTERM, then SIGKILL for the group."""
        key = str(handle.reference["folder"])
        if not self._wardens.stop(key, grace) and (process := identify(Path(key))) is not None:
            _terminate(process, grace)

    def close(self) -> None:
        """End the wardens; services that go on without their controller keep theirs."""
        self._closed.set()
        self._wardens.close()
        for watcher in self._watchers:
            watcher.join()

    @functools.cached_property
    def _sockets(self) -> Path:
        return runtime_folder(self._folder)

    def _socket(self, key: str) -> Path:
        """Where the attempt `key` may serve; short, as paths of sockets have to be."""
        return self._sockets / f"{blake2b(key.encode(), digest_size=8).hexdigest()}.sock"

    def _receive(self, notice: Notice) -> None:
        with self._lock:
            attempt = self._attempts[notice.key]
            event = notice.event(socket.gethostname())
            if isinstance(event, MemberStarted):
                attempt.started = event
            else:
                attempt.ended = event
            sinks = list(attempt.sinks)
        for sink in sinks:
            sink(event)

    def _watch(self, handle: Handle) -> None:
        """Follow a process that is not ours: it is over when its warden has left evidence or it is gone."""
        key = str(handle.reference["folder"])
        process = identify(Path(key))
        if process is not None:
            self._receive(Started(key=key, at=process.create_time(), pid=process.pid))
        while not self._closed.wait(POLL_INTERVAL):
            gone = process is None or not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            evidence = Path(key) / EVIDENCE
            if evidence.exists():
                self._receive(msgspec.msgpack.decode(evidence.read_bytes(), type=Ended))
                return
            if gone:
                note = "it ended while nobody watched it"
                self._receive(Ended(key=key, at=time.time(), evidence=Evidence(note=note)))
                return


def _run(grants: list[Grant]) -> None:
    for grant in grants:
        grant()


def _terminate(process: psutil.Process, grace: float) -> None:
    """End a process that no warden of ours waits for."""

    def finish() -> None:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.terminate()
            _, alive = psutil.wait_procs([process], timeout=grace)
            if alive:
                os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=finish, name="ganglion-terminate", daemon=True).start()
