"""The local backend passes the contract, forking and with the fallbacks of macOS."""

import sys
from pathlib import Path

from ganglion.execution.backend import Handle
from ganglion.execution.spec import Task
from ganglion.testing.contract import BackendContract

sys.path.insert(0, str(Path(__file__).parent))


class _Local(BackendContract):
    def handle(self, folder: Path, spec: Task) -> Handle:
        path = folder.resolve() / "jobs" / spec.id / "task-0" / "1"
        return Handle(backend="local", job=spec.id, member="task-0", attempt=1, reference={"folder": str(path)})


class TestForking(_Local):
    factory = "local_factories:forking"


class TestSpawning(_Local):
    factory = "local_factories:spawning"
