"""What the record says, as values: plain data that reads the same in a terminal, a web page and a notebook.

Times are wall seconds since the epoch, `None` while they have not come.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ganglion.core.run_events import ArtifactReference


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all views."""


class RunSummary(View, frozen=True, kw_only=True):
    """One line of a list of runs.

    Attributes:
        id: of the run.
        pipeline: `file.py:name` or `module:name`.
        state: `running`, `succeeded`, `failed` or `cancelled`.
        start: when it began first.
        end: when it ended.
        message: why it failed.
        steps: number of steps in each state that occurs.
    """

    id: str
    pipeline: str
    state: str
    start: float
    end: float | None
    message: str
    steps: dict[str, int]


class Attempt(View, frozen=True, kw_only=True):
    """One try at a step.

    Attributes:
        attempt: 1 for the first.
        state: `running`, `succeeded`, `failed`, `cancelled`, or `lost` when the orchestrator died first.
        start: when it began.
        end: when it ended.
        message: why it failed.
        traceback: of the failing process.
    """

    attempt: int
    state: str
    start: float | None
    end: float | None
    message: str
    traceback: str | None


class StepDetail(View, frozen=True, kw_only=True):
    """A step of a run, as its latest attempt left it.

    Attributes:
        name: of the step in the run.
        kind: what kind of step.
        state: `pending`, `running`, `succeeded`, `cached`, `failed` or `cancelled`.
        start: of the latest attempt; for a cached step when it was skipped.
        end: of the latest attempt.
        attempts: every try, in order; none for a step that was skipped.
        fingerprint: what its result may be re-used under.
        cache: hit or miss with its reason.
        metrics: the last value of every metric, also while the step runs.
        result: what it returned; of a running step that follows others, its latest intermediate result.
        inputs: artifacts it used, in order of digest.
        outputs: artifacts it produced, in order of digest.
        message: why it failed.
        traceback: of the failing process.
    """

    name: str
    kind: str
    state: str
    start: float | None
    end: float | None
    attempts: tuple[Attempt, ...]
    fingerprint: str | None
    cache: str
    metrics: dict[str, float]
    result: Any
    inputs: tuple[ArtifactReference, ...]
    outputs: tuple[ArtifactReference, ...]
    message: str
    traceback: str | None


class ModelVersionInfo(View, frozen=True, kw_only=True):
    """A published version of a model.

    Attributes:
        model: name of the model.
        version: number of the version.
        aliases: aliases that were given to it and to no later version, in order.
        digest: of the model package.
        metrics: held-out metrics.
        run: the run that published it.
        step: the step that published it.
        published: when.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    digest: str
    metrics: dict[str, float]
    run: str
    step: str
    published: float


class RunDetail(View, frozen=True, kw_only=True):
    """Everything about a run but its series.

    Attributes:
        id: of the run.
        pipeline: `file.py:name` or `module:name`.
        state: `running`, `succeeded`, `failed` or `cancelled`.
        start: when it began first.
        end: when it ended.
        message: why it failed.
        seed: what the seeds of its steps derive from.
        parameters: arguments of the pipeline function.
        environment: versions it ran with.
        graph: steps in topological order, as the run began.
        steps: in the order of the graph; then, by start, those that came about at run time.
        models: versions it published.
    """

    id: str
    pipeline: str
    state: str
    start: float
    end: float | None
    message: str
    seed: int
    parameters: dict[str, Any]
    environment: dict[str, str]
    graph: list[dict[str, Any]]
    steps: tuple[StepDetail, ...]
    models: tuple[ModelVersionInfo, ...]


class MetricPoint(View, frozen=True, kw_only=True):
    """One value of one metric.

    Attributes:
        at: when it was reported.
        step: name of the step in the run.
        member: the process that reported it.
        name: of the metric.
        value: the number; may be NaN.
        position: what it is drawn over (epoch or training step), if anything.
    """

    at: float
    step: str
    member: str
    name: str
    value: float
    position: float | None


class ResourcePoint(View, frozen=True, kw_only=True):
    """What one process of a step used at one moment.

    Attributes:
        at: when.
        step: name of the step in the run.
        member: the process.
        cpu_seconds: since the start of the process.
        memory: resident bytes.
    """

    at: float
    step: str
    member: str
    cpu_seconds: float
    memory: int


class LineageStep(View, frozen=True, kw_only=True):
    """A step on the way from data to model.

    Attributes:
        run: id of the run.
        step: name of the step in the run.
        state: its state; `cached` where it took over what another run produced.
        inputs: artifacts it used, in order of digest.
        outputs: artifacts it produced, in order of digest.
    """

    run: str
    step: str
    state: str
    inputs: tuple[ArtifactReference, ...]
    outputs: tuple[ArtifactReference, ...]


class Lineage(View, frozen=True, kw_only=True):
    """Where an artifact comes from, or what came of it.

    Attributes:
        digest: the artifact that was asked about.
        steps: nearest first.
        artifacts: every artifact on the way, nearest first, without the one that was asked about.
        models: model versions whose package is that artifact or one on the way.
    """

    digest: str
    steps: tuple[LineageStep, ...]
    artifacts: tuple[ArtifactReference, ...]
    models: tuple[ModelVersionInfo, ...]
