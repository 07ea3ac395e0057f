"""What happens to a run of a pipeline: the lines of the workflow journal and the input of the record.

The journal is the truth; `metadata` projects these events into tables. Applying an event twice changes nothing.
Times are wall seconds since the epoch.
"""

from __future__ import annotations

from typing import Any

import msgspec


class RunEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all run events.

    Attributes:
        at: wall time in seconds.
        run: id of the run.
    """

    at: float
    run: str


class RunStarted(RunEvent, frozen=True, kw_only=True, tag="run_started"):
    """A run begins, or goes on after its orchestrator died.

    Attributes:
        pipeline: `file.py:name` or `module:name`.
        parameters: arguments of the pipeline function, as plain data.
        seed: the seed that steps derive theirs from.
        graph: steps in topological order: `{"step": name, "kind": ..., "needs": [names], "streams": [names]}`.
        environment: Python, Ganglion and package versions.
        resumed: whether an earlier orchestrator began it.
    """

    pipeline: str
    parameters: dict[str, Any] = {}
    seed: int = 0
    graph: list[dict[str, Any]] = []
    environment: dict[str, str] = {}
    resumed: bool = False


class StepStarted(RunEvent, frozen=True, kw_only=True, tag="step_started"):
    """One attempt at a step begins.

    Attributes:
        step: name of the step in the run.
        attempt: 1 for the first try; grows over resumptions of the run too.
        fingerprint: of code, inputs and environment; `None` when something cannot be fingerprinted.
        cache: why the step was not skipped, such as `miss: no earlier result` or `miss: code changed`.
    """

    step: str
    attempt: int
    fingerprint: str | None = None
    cache: str = ""


class ArtifactReference(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact as events mention it: digest, what it is, its size in bytes."""

    digest: str
    kind: str
    size: int = 0


class StepFinished(RunEvent, frozen=True, kw_only=True, tag="step_finished"):
    """An attempt at a step is over.

    Attributes:
        step: name of the step in the run.
        attempt: which attempt; 0 for a step that was skipped.
        state: `succeeded`, `cached`, `failed` or `cancelled`.
        message: one line for a person when it failed.
        traceback: of the failing process.
        permanent: another attempt could not end otherwise: what was given is wrong.
        fingerprint: what the result may be re-used under.
        cache: hit or miss with its reason, such as `hit: same code and inputs as run-...`.
        result: the encoded result (plain data).
        inputs: artifacts the step used.
        outputs: artifacts the step produced.
        metrics: the last value of every metric it reported.
    """

    step: str
    attempt: int
    state: str
    message: str = ""
    traceback: str | None = None
    permanent: bool = False
    fingerprint: str | None = None
    cache: str = ""
    result: Any = None
    inputs: tuple[ArtifactReference, ...] = ()
    outputs: tuple[ArtifactReference, ...] = ()
    metrics: dict[str, float] = {}


class StepUpdated(RunEvent, frozen=True, kw_only=True, tag="step_updated"):
    """A step that follows others as they complete has a new intermediate result."""

    step: str
    attempt: int
    result: Any = None


class StepNoted(RunEvent, frozen=True, kw_only=True, tag="step_noted"):
    """Something that a person should know about a step which goes on.

    Attributes:
        step: name of the step in the run.
        member: the process that it is about; empty where it is about the whole step.
        message: one line.
    """

    step: str
    member: str = ""
    message: str


class MetricReported(RunEvent, frozen=True, kw_only=True, tag="metric_reported"):
    """One value of one metric.

    Attributes:
        step: name of the step in the run.
        member: the process that reported it.
        name: such as `accuracy`.
        value: the number.
        position: what it is drawn over (epoch or training step), if anything.
    """

    step: str
    member: str
    name: str
    value: float
    position: float | None = None


class ResourcesSampled(RunEvent, frozen=True, kw_only=True, tag="resources_sampled"):
    """What one process of a step used at one moment.

    Attributes:
        step: name of the step in the run.
        member: the process.
        cpu_seconds: since the start of the process.
        memory: resident bytes.
    """

    step: str
    member: str
    cpu_seconds: float
    memory: int


class ModelPublished(RunEvent, frozen=True, kw_only=True, tag="model_published"):
    """A version of a model was published.

    Attributes:
        step: name of the step in the run.
        model: name of the model.
        version: its new version.
        digest: of the model package.
        metrics: held-out metrics.
        aliases: aliases that now point to this version.
    """

    step: str
    model: str
    version: int
    digest: str
    metrics: dict[str, float] = {}
    aliases: tuple[str, ...] = ()


class RunFinished(RunEvent, frozen=True, kw_only=True, tag="run_finished"):
    """The run is over.

    Attributes:
        state: `succeeded`, `failed` or `cancelled`.
        message: one line for a person.
    """

    state: str
    message: str = ""


AnyRunEvent = (
    RunStarted
    | StepStarted
    | StepFinished
    | StepUpdated
    | StepNoted
    | MetricReported
    | ResourcesSampled
    | ModelPublished
    | RunFinished
)
