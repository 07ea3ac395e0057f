"""A job that is run by itself, in the books like a pipeline of one step: journal, metrics, resources, end.

`ganglion train` runs one training without a pipeline around it. What became of it is asked for in the same places.
"""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ganglion.artifacts.store import Artifact
from ganglion.core.clock import Clock, SystemClock
from ganglion.core.events import Event, MemberReported, MemberSampled
from ganglion.core.run_events import (
    AnyRunEvent,
    ArtifactReference,
    MetricReported,
    ModelPublished,
    ResourcesSampled,
    RunFinished,
    RunStarted,
    StepFinished,
    StepNoted,
    StepStarted,
)
from ganglion.execution.outcome import Outcome
from ganglion.fingerprints import ganglion_version
from ganglion.workflow.journal import Journal

_POSITIONS = ("epoch", "step")
_UNRECORDED = (*_POSITIONS, "epochs", "steps", "progress")


class SingleJob:
    """The books of one job; a context manager around it, and a listener for its events.

    Args:
        runs: folder of all runs.
        run: id of this one.
        pipeline: what was run, as a person wrote it.
        step: name of the one step.
        kind: what the step is, as `train`.
        parameters: of the job, plain data.
        seed: of the job.
        listeners: get every event that is in the journal.
        clock: where time comes from.

    Attributes:
        run: as given.
        job: what the id of the job has to be, so that its logs are found.
    """

    def __init__(
        self,
        runs: Path,
        run: str,
        *,
        pipeline: str,
        step: str,
        kind: str,
        parameters: Mapping[str, Any],
        seed: int = 0,
        listeners: Sequence[Callable[[AnyRunEvent], None]] = (),
        clock: Clock | None = None,
    ) -> None:
        self.run = run
        self.job = f"{run}-{step}-a1"
        self._step = step
        self._clock = clock or SystemClock()
        self._listeners = listeners
        self._guard = threading.Lock()
        self._over = False
        self._metrics: dict[str, float] = {}
        self._journal = Journal(runs / run)
        self._write(
            RunStarted(
                at=self._clock.now(),
                run=run,
                pipeline=pipeline,
                parameters=dict(parameters),
                seed=seed,
                graph=[{"step": step, "kind": kind, "needs": [], "streams": []}],
                environment={"Python": platform.python_version(), "ganglion": ganglion_version()},
            )
        )
        self._write(StepStarted(at=self._clock.now(), run=run, step=step, attempt=1, cache="miss: run by itself"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._over:
            state = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
            self._finish(state, str(error) if error is not None else "it did not come to an end")
        self._journal.close()

    def __call__(self, event: Event) -> None:
        """Take one event of the job."""
        match event:
            case MemberReported(at=at, member=member, values=values):
                position = next((float(values[key]) for key in _POSITIONS if _is_number(values.get(key))), None)
                for name, value in values.items():
                    if name not in _UNRECORDED and _is_number(value):
                        self._metrics[name] = float(value)
                        reported = MetricReported(
                            at=at,
                            run=self.run,
                            step=self._step,
                            member=member,
                            name=name,
                            value=float(value),
                            position=position,
                        )
                        self._write(reported)
            case MemberSampled(at=at, member=member, cpu_seconds=cpu_seconds, memory=memory):
                self._write(
                    ResourcesSampled(
                        at=at, run=self.run, step=self._step, member=member, cpu_seconds=cpu_seconds, memory=memory
                    )
                )

    def note(self, message: str, member: str = "") -> None:
        """Write down one line that a person should know."""
        now = self._clock.now()
        self._write(StepNoted(at=now, run=self.run, step=self._step, member=member, message=message))

    def published(self, model: str, version: int, artifact: Artifact, metrics: Mapping[str, float]) -> None:
        """Write down that the model was published; before the end."""
        self._write(
            ModelPublished(
                at=self._clock.now(),
                run=self.run,
                step=self._step,
                model=model,
                version=version,
                digest=artifact.digest,
                metrics=dict(metrics),
            )
        )

    def finish(self, outcome: Outcome, made: Sequence[Artifact] = ()) -> None:
        """Write down how the job ended.

        Args:
            outcome: of the job.
            made: the artifacts that it produced.
        """
        outputs = tuple(ArtifactReference(digest=each.digest, kind=each.kind, size=each.size) for each in made)
        self._finish(str(outcome.state), outcome.message, outcome.traceback, outputs)

    def _finish(
        self, state: str, message: str, traceback: str | None = None, outputs: tuple[ArtifactReference, ...] = ()
    ) -> None:
        now = self._clock.now()
        self._write(
            StepFinished(
                at=now,
                run=self.run,
                step=self._step,
                attempt=1,
                state=state,
                message=message,
                traceback=traceback,
                outputs=outputs,
                metrics=self._metrics,
            )
        )
        self._write(RunFinished(at=now, run=self.run, state=state, message=message))
        self._over = True

    def _write(self, event: AnyRunEvent) -> None:
        """Journal first, then the listeners; what comes after the end is left out."""
        with self._guard:
            if not self._over:
                self._journal.append(event)
                for listener in self._listeners:
                    listener(event)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
