"""What a training consists of, as plain data, and the gang that carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from ganglion.artifacts.package import ImageInput
from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import NEVER, Gang, Numerics, Restart, Role
from ganglion.training.schedule import Schedule

PRELOAD = (
    "numpy",
    "torch",
    "torch.distributed",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
    "onnx",
    "onnxscript",
    "ganglion.training.worker",
)
"""What a worker finds imported: torch's first optimizer loads `torch._dynamo`, its exporter the last three."""

RESTARTS = 100
"""How many lost workers are replaced by default; bounded, as what kills one may kill all that follow."""

MetricName = Literal["accuracy", "loss"]
"""What can be measured on the held-out records."""


class Factory(Config, frozen=True, kw_only=True):
    """Something that each worker builds for itself: a model, a source, a callback.

    Attributes:
        entry: what is called.
        arguments: keyword arguments, plain data.
    """

    entry: Entry
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)

    def build(self) -> Any:
        """Import the callable and call it."""
        return self.entry.load()(**self.arguments)


class Optimizer(Config, frozen=True, kw_only=True):
    """How gradients become a step.

    Attributes:
        name: the class in `torch.optim`, in lower case.
        options: its keyword arguments, but for the learning rate.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class Export(Config, frozen=True, kw_only=True):
    """How the trained model is packaged for serving.

    Attributes:
        image: how an encoded image becomes the input, if the model takes images.
        tolerance: largest difference between the packaged and the trained model's outputs on held-out records.
        lineage: where the model comes from, for the package.
    """

    image: ImageInput | None = None
    tolerance: float = 1e-4
    lineage: dict[str, str] = msgspec.field(default_factory=dict)


class TrainingPlan(Config, frozen=True, kw_only=True):
    """A training; with the data it names, it determines the trained model.

    Attributes:
        model: builds the `torch.nn.Module`. It takes the input column as it is stored and returns one row for each
            record; classifiers return logits.
        train: builds the `BatchSource` that is learned from.
        held_out: builds the `BatchSource` that is measured on, each record once.
        epochs: passes over the training records.
        input_column: what the model is called with.
        target_column: what its output is compared to.
        loss: `cross_entropy`, `mean_squared_error`, or a function of (outputs, targets) that returns the mean over
            the records.
        optimizer: how gradients become a step.
        learning_rate: at the peak of the schedule.
        schedule: how it moves.
        metrics: what is measured on the held-out records; by default the loss, and the accuracy of classifiers.
        classes: names of the model's outputs, in order, if they have names.
        global_batch: records in a step, over all workers; if given, the training source has to agree.
        logical_workers: slices of each global batch; the result depends on them, not on the number of processes. By
            default the number of workers at the first start.
        seed: of initial weights and dropout.
        exact: sum in one fixed order, so that the result is the same to the last bit however many workers there are,
            and workers may come and go; otherwise use the all-reduce of `torch.distributed`, and fail when one is lost.
        channels_last: lay images out with the channels innermost, which is faster on CPUs.
        callbacks: build the `Callback`s of rank 0.
        export: how the model is packaged.
    """

    model: Factory
    train: Factory
    held_out: Factory | None = None
    epochs: int = 1
    input_column: str = "image"
    target_column: str = "label"
    loss: str | Entry = "cross_entropy"
    optimizer: Optimizer = Optimizer()
    learning_rate: float = 0.001
    schedule: Schedule = Schedule()
    metrics: tuple[MetricName, ...] | None = None
    classes: tuple[str, ...] = ()
    global_batch: int | None = None
    logical_workers: int | None = None
    seed: int = 0
    exact: bool = True
    channels_last: bool = True
    callbacks: tuple[Factory, ...] = ()
    export: Export = Export()

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "global_batch", "logical_workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"Training: {name} is {value}; it has to be greater than 0.")

    @property
    def classifies(self) -> bool:
        """Whether outputs are logits of classes."""
        return self.loss == "cross_entropy"

    @property
    def measured(self) -> tuple[MetricName, ...]:
        """The metrics, chosen or by default."""
        if self.metrics is not None:
            return self.metrics
        return ("loss", "accuracy") if self.classifies else ("loss",)


def gang(
    plan: TrainingPlan,
    *,
    id: str,
    workers: int,
    min_workers: int | None = None,
    restarts: int = RESTARTS,
    store: Path | None = None,
    cpu: float = 1.0,
    memory: int = 0,
    timeout: float | None = None,
    import_path: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
) -> Gang:
    """The spec that carries out `plan`.

    Args:
        plan: what to train.
        id: of the job.
        workers: number of processes; together they compute every global batch.
        min_workers: how many the training begins with, the others join as resources come; by default all.
        restarts: how many lost workers are replaced in all; after that the training goes on with those that are left,
            as long as they are at least `min_workers`.
        store: folder of the artifact store that the model package goes to; without one none is written.
        cpu: cores for each worker; a fraction shares a core.
        memory: bytes for each worker; 0 declares none.
        timeout: seconds after which a worker is stopped.
        import_path: folders from which workers import the entries of the plan.
        labels: for records and logs.

    Raises:
        ConfigurationError: there are more workers than logical workers, or fewer than the minimum.
    """
    logical = plan.logical_workers or workers
    if logical < workers:
        raise ConfigurationError(
            f"{workers} workers for {logical} logical workers; use at most as many workers as logical workers."
        )
    if min_workers is not None and not (1 <= min_workers <= workers and plan.exact):
        raise ConfigurationError(
            f"min_workers is {min_workers} of {workers} workers with exact={plan.exact}; at least 1 and at most all "
            "are possible, and only an exact training can grow."
        )
    recorded = msgspec.structs.replace(plan, logical_workers=logical)
    return Gang(
        id=id,
        entry=Entry(path="ganglion.training.worker:main"),
        arguments={"plan": msgspec.to_builtins(recorded), "store": str(store.absolute()) if store else None},
        resources=Resources(cpu=cpu, memory=memory),
        roles=(Role(name="worker", count=workers, minimum=min_workers),),
        elastic=plan.exact,
        restart=Restart(budget=restarts, backoff=0.05, longest=1.0, alone=True) if plan.exact else NEVER,
        numerics=Numerics(threads=1),
        preload=PRELOAD,
        timeout=timeout,
        import_path=import_path,
        labels=dict(labels or {}),
    )
