"""What the function of a step can know of the run it is part of."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganglion.artifacts.store import FolderStore
from ganglion.execution.member import current_member


@dataclass(frozen=True)
class StepContext:
    """The place of a function step.

    Attributes:
        run: id of the run; empty outside of one.
        step: name of the step in the run.
        attempt: 1 for the first try.
        seed: the step's own; whatever is random should follow from it.
        limit: number of records to take from each source; `None` for all.
        folder: an empty folder of this attempt, removed once the step has succeeded.
        store: where artifacts are.
    """

    run: str
    step: str
    attempt: int
    seed: int
    limit: int | None
    folder: Path
    store: FolderStore

    def report(self, values: Mapping[str, Any]) -> None:
        """Record metrics: numbers, with an optional position under `epoch` or `step`."""
        current_member().report(values)


_current: StepContext | None = None


def current_step() -> StepContext:
    """The step that this process runs; outside of a run one of its own in a temporary folder, with seed 0."""
    global _current
    if _current is None:
        folder = Path(tempfile.mkdtemp(prefix="ganglion-step-"))
        _current = StepContext("", "", 1, 0, None, folder, FolderStore(folder / "store"))
    return _current


@contextmanager
def step_context(context: StepContext) -> Iterator[None]:
    """Make `context` what `current_step` returns."""
    global _current
    before, _current = _current, context
    try:
        yield
    finally:
        _current = before
