"""Trainings of the reference model as gangs of real processes, for the benchmarks to measure and to disturb."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.execution.entry import Entry
from ganglion.execution.supervisor import Job, Listener, Supervisor
from ganglion.testing.faults import Fault, with_faults
from ganglion.training import Factory, TrainingPlan, gang

ROOT = Path(__file__).parents[1]

MODEL = Factory(entry=Entry(path="benchmarks.training_parts:model"))


class Trainings:
    """Runs trainings of the reference model on one supervisor."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ganglion-bench-")))
        self.supervisor = Supervisor(LocalBackend(self.folder, LocalConfig(cpu=2.0)), self.folder)
        self._stack.callback(self.supervisor.close)
        self.count = 0

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def submit(
        self,
        workers: int,
        logical: int,
        *,
        steps: int,
        listener: Listener | None = None,
        faults: Sequence[Fault] = (),
        **fields: object,
    ) -> tuple[Job, Path]:
        """Start a training of some steps, in one epoch; its job and the folder of its watches."""
        self.count += 1
        watches = self.folder / f"watches-{self.count}"
        watches.mkdir()
        watch = Factory(entry=Entry(path="benchmarks.training_parts:Watch"), arguments={"folder": str(watches)})
        plan = TrainingPlan(
            train=Factory(entry=Entry(path="benchmarks.training_parts:Images"), arguments={"count": 128 * steps}),
            logical_workers=logical,
            **({"model": MODEL, "callbacks": (watch,)} | fields),
        )
        spec = gang(plan, id=f"training-{self.count}", workers=workers, cpu=0.1, import_path=(str(ROOT),))
        return self.supervisor.submit(with_faults(spec, faults, watches) if faults else spec, listener), watches
