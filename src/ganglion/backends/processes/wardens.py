"""The wardens of one machine: for each member one with its numerics and preloads, started when first needed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ganglion.backends.processes.warden_client import WardenClient
from ganglion.backends.processes.wire import Ended, Notice, StartMember, StopMember
from ganglion.core.errors import ControlError
from ganglion.execution.exits import Evidence
from ganglion.execution.spec import Numerics


class _Running(msgspec.Struct):
    """A process that was asked for and has not ended."""

    request: StartMember
    warden: WardenClient
    pid: int | None = None


class Wardens:
    """Creates, watches and ends member processes on this machine; safe to call from any thread."""

    def __init__(
        self,
        receive: Callable[[Notice], None],
        *,
        fork: bool,
        import_path: Sequence[str] | None = None,
        orphans: bool = False,
    ) -> None:
        """No process is started yet.

        Args:
            receive: takes `Started` and, once, `Ended` for every attempt; called from any thread.
            fork: fork members from warm wardens, or start an interpreter for each.
            import_path: where members look for modules, if not where this process does.
            orphans: wardens are not children of this process.
        """
        self._receive = receive
        self._fork = fork
        self._import_path = import_path
        self._orphans = orphans
        self._lock = threading.RLock()
        self._groups: dict[Numerics, list[WardenClient]] = {}
        self._running: dict[str, _Running] = {}

    def warm(self, numerics: Numerics, preload: tuple[str, ...], *, share: bool = False) -> WardenClient:
        """The warden with these numerics and these preloads, and the fewest others; a new one if there is none.

        Args:
            numerics: what it is started with.
            preload: modules that it imports before the first fork.
            share: whether a new one may be forked from this process; see `WardenClient`.
        """
        with self._lock:
            group = self._groups.setdefault(numerics, [])
            wanted = set(preload) if self._fork else set()
            if fitting := [warden for warden in group if wanted <= set(warden.preload)]:
                return min(fitting, key=lambda warden: len(warden.preload))
            warden = WardenClient(
                preload=tuple(sorted(wanted)),
                environment=numerics.environment() | {"ORT_DISABLE_TELEMETRY": "1"},
                fork=self._fork,
                import_path=sys.path if self._import_path is None else self._import_path,
                orphan=self._orphans,
                share=share,
                receive=self._take,
                lost=lambda: self._lose(warden),
            )
            group.append(warden)
            return warden

    def start(self, request: StartMember) -> None:
        """Have a process created.

        Raises:
            ControlError: the warden has just died.
        """
        spec = request.plan.spec
        with self._lock:
            warden = self.warm(spec.numerics, spec.preload)
            self._running[request.key] = _Running(request, warden)
            try:
                warden.send(request)
            except ControlError:
                del self._running[request.key]
                raise

    def stop(self, key: str, grace: float) -> bool:
        """Ask a process to end and kill it after `grace` seconds; false when it is none of ours, or over."""
        with self._lock:
            running = self._running.get(key)
        if running is None:
            return False
        with contextlib.suppress(ControlError):  # a lost warden took its members along, and has said so
            running.warden.send(StopMember(key=key, grace=grace))
        return True

    @property
    def running(self) -> int:
        """How many processes have not ended."""
        return len(self._running)

    def close(self) -> None:
        """End every process that is tied to this one; wardens of the others stay with them."""
        with self._lock:
            wardens = [warden for group in self._groups.values() for warden in group]
            self._groups.clear()
            staying = {id(running.warden) for running in self._running.values() if not running.request.tied}
        for warden in wardens:
            warden.close(wait=id(warden) not in staying)

    def _take(self, notice: Notice) -> None:
        with self._lock:
            if isinstance(notice, Ended):
                self._running.pop(notice.key, None)
            elif notice.key in self._running:
                self._running[notice.key].pid = notice.pid
        self._receive(notice)

    def _lose(self, warden: WardenClient) -> None:
        """A warden died: end what it had started, since nobody else would, and report it lost."""
        with self._lock:
            for group in self._groups.values():
                if warden in group:
                    group.remove(warden)
            orphans = [running for running in self._running.values() if running.warden is warden]
        for running in orphans:
            if running.pid is not None:
                with contextlib.suppress(ProcessLookupError):  # its children may be left even if it is gone
                    os.killpg(running.pid, signal.SIGKILL)
            if running.request.listen_at.startswith("unix:"):
                Path(running.request.listen_at.removeprefix("unix:")).unlink(missing_ok=True)
            note = "the process that had started it was killed"
            self._take(Ended(key=running.request.key, at=time.time(), evidence=Evidence(note=note)))
