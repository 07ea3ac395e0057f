"""The Ray backend passes the contract, on a real Ray."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganglion.execution.backend import Handle
from ganglion.execution.spec import Task
from ganglion.testing.contract import BackendContract

sys.path.insert(0, str(Path(__file__).parent))

import ray_cluster  # found by the line above


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    """One cluster, and one connection of this process to it, for all tests."""
    from ganglion.backends.ray import cluster

    with ray_cluster.started() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        cluster.connect("", "")
        yield address
        cluster.disconnect()


class TestRay(BackendContract):
    factory = "ray_factories:connected"

    def handle(self, folder: Path, spec: Task) -> Handle:
        path = folder.resolve() / "jobs" / spec.id / "task-0" / "1"
        return Handle(backend="ray", job=spec.id, member="task-0", attempt=1, reference={"folder": str(path)})
