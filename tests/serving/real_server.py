"""A model server of real processes for a whole module of tests, and what its processes cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import GanglionError
from ganglion.core.events import Event, MemberExited, MemberStarted
from ganglion.core.resources import Resources
from ganglion.execution.spec import AnySpec
from ganglion.execution.supervisor import Job, Supervisor
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository

SMALL = Resources(cpu=0.1)


class _Watched(Supervisor):
    """A supervisor that knows the processes of its members."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.members: dict[tuple[str, str, int], int] = {}
        self.ended: list[tuple[str, str, int]] = []
        self._lock = threading.Lock()

    def submit(self, spec: AnySpec, listener: Callable[[Event], None] | None = None) -> Job:
        def listen(event: Event) -> None:
            with self._lock:
                match event:
                    case MemberStarted(job=job, member=member, attempt=attempt, pid=pid):
                        self.members[job, member, attempt] = pid
                    case MemberExited(job=job, member=member, attempt=attempt):
                        self.ended.append((job, member, attempt))
            if listener is not None:
                listener(event)

        return super().submit(spec, listen)


class RealServer:
    """A repository in a folder and a model server for it; `fields` are those of `ModelServer`."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.folder = folder
        self.repository = ModelRepository(folder / "models")
        self.supervisor = _Watched(LocalBackend(folder / "g", LocalConfig(cpu=4)), folder / "g")
        try:
            self.server = ModelServer(self.supervisor, self.repository, gateway=SMALL, **fields)
        except GanglionError:
            self.supervisor.close()
            raise
        self.url = self.server.url
        self.port = int(self.url.rpartition(":")[2])

    @property
    def pids(self) -> dict[str, int]:
        """Processes that live, by job and member; one that was replaced has another."""
        return {
            f"{job}/{member}": pid
            for (job, member, attempt), pid in list(self.supervisor.members.items())
            if (job, member, attempt) not in self.supervisor.ended
        }

    def memory(self) -> int:
        """Bytes of all processes, shared ones counted in part (PSS)."""
        return sum(psutil.Process(pid).memory_full_info().pss for pid in self.pids.values())

    def close(self) -> None:
        self.server.close()
        self.supervisor.close()
