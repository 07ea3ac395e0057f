"""What a training consists of, as plain data, and the gang that carries it out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from ganglion.artifacts.package import ImageInput
from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry, entry_of
from ganglion.execution.spec import NEVER, Gang, Numerics, Restart, Role
from ganglion.training.checkpoints.archive import Archive
from ganglion.training.checkpoints.settings import Checkpointing
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

LONGEST_BACKOFF = 0.2
"""Seconds until a lost worker is replaced, at most: the others work for it meanwhile, and `RESTARTS` bounds a loop."""

MKL_MODE = "AUTO"
"""Sums in MKL go by the processor alone, not by how memory happens to be aligned."""

METRICS = (
    "accuracy",
    "exact_match",
    "f1",
    "f1_micro",
    "loss",
    "mean_absolute_error",
    "mean_squared_error",
    "precision",
    "r2",
    "recall",
    "root_mean_squared_error",
    "top_5_accuracy",
)
"""What can be measured on the held-out records; of the last one there is one for every number."""


def check_metric(name: str) -> None:
    """Refuse the name of a measure that there is not; `module:name` is one of the user's own.

    Raises:
        ConfigurationError: there is no such measure.
    """
    if name not in METRICS and not re.fullmatch(r"top_[1-9]\d*_accuracy|[\w.]+:[\w.]+", name):
        raise ConfigurationError(
            f"There is no metric {name!r}. {suggest(name, METRICS)} Or give the path module:name of your own."
        )


def lower_is_better(metric: str) -> bool:
    """Whether less of a measure is better, which its name tells."""
    return metric.endswith(("loss", "error"))


class Factory(Config, frozen=True, kw_only=True):
    """Something that each worker builds for itself: a model, a source, a callback.

    Attributes:
        entry: what is called.
        arguments: keyword arguments, plain data.
    """

    entry: Entry
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any], /, **arguments: Any) -> Self:
        """Have a function called with these arguments, which are plain data."""
        return cls(entry=entry_of(function), arguments=arguments)

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
        model: builds the `torch.nn.Module`, on the device where it is to be trained. It takes the input column as it is
            stored and returns one row for each record; classifiers return logits.
        train: builds the `BatchSource` that is learned from.
        held_out: builds the `BatchSource` that is measured on, each record once.
        epochs: passes over the training records; one, unless `max_steps` is given.
        max_steps: instead of epochs: steps after which the training ends, however many passes that takes.
        max_time: seconds of training after which it ends with the step that is under way. How far it comes then
            depends on the machines, and so does the result; its `history` and `digest` say where it ended.
        input_column: what the model is called with.
        target_column: what its output is compared to.
        loss: `cross_entropy` (one label of several), `binary_cross_entropy` (any of several labels, or of one, whose
            logits the model returns), `mean_squared_error`, `mean_absolute_error`, `huber`, or a function of
            (outputs, targets) that returns the mean over the records.
        optimizer: how gradients become a step.
        learning_rate: at the peak of the schedule.
        schedule: how it moves.
        clip_norm: largest Euclidean norm of the gradient of a step, over all parameters; a longer one is made as short.
        micro_batches: in how many parts a slice is computed, one after the other, their gradients added up. That takes
            less memory and leaves global batch and learning rate alone. Another number gives other bits, and with batch
            normalisation, whose statistics are then those of a part, another result; workers still do not matter.
        precision: `bfloat16` computes outputs and gradients of the layers that gain by it in that type, where the
            processor has instructions for it. Weights, sums, the optimizer, evaluation and the exported model remain in
            the type of the parameters.
        init_from: folder of a model package or a checkpoint whose weights the training begins with.
        metrics: what is measured on the held-out records, of `METRICS`; by default the loss, and the accuracy of
            classifiers.
        classes: names of the model's outputs, in order, if they have names.
        global_batch: records in a step, over all workers; if given, the training source has to agree.
        batch_per_worker: for those who ask for it, instead of a fixed global batch: so many records for each logical
            worker. `gang` makes a global batch of it, which `train` is given as the argument `global_batch`, and
            changes the learning rate by `learning_rate_rule`; both are fixed from then on, whoever leaves or joins.
        learning_rate_rule: what `learning_rate`, which is meant for one worker, is multiplied by when there are V of
            them: `linear` V (Goyal et al., "Accurate, Large Minibatch SGD", 2017), `sqrt` its square root
            (Krizhevsky, "One weird trick", 2014; the usual choice with Adam), `none` one.
        logical_workers: slices of each global batch; the result depends on them, not on the number of processes. By
            default the number of workers at the first start.
        seed: of initial weights and dropout.
        max_bad_slices: how many slices may be left out of their steps because the loss refuses a target in them or is
            not a finite number there; one more ends the training. They are counted in the result.
        patience: seconds for which a source may be away. The training pauses meanwhile, safe in a checkpoint if it has
            any, and goes on when the source is back; after that it fails.
        exact: sum in one fixed order, so that the result is the same to the last bit however many workers there are,
            and workers may come and go; otherwise use the all-reduce of `torch.distributed`, and fail when one is lost.
        channels_last: lay images out with the channels innermost, which is faster on CPUs.
        callbacks: build the `Callback`s of rank 0.
        checkpoints: where and how often they are saved; a training whose folder has some goes on from the newest that
            is undamaged. By default there are none.
        export: how the model is packaged.
    """

    model: Factory
    train: Factory
    held_out: Factory | None = None
    epochs: int | None = None
    max_steps: int | None = None
    max_time: float | None = None
    input_column: str = "image"
    target_column: str = "label"
    loss: str | Entry = "cross_entropy"
    optimizer: Optimizer = Optimizer()
    learning_rate: float = 0.001
    schedule: Schedule = Schedule()
    clip_norm: float | None = None
    micro_batches: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    init_from: str | None = None
    metrics: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    global_batch: int | None = None
    batch_per_worker: int | None = None
    learning_rate_rule: Literal["linear", "sqrt", "none"] = "linear"
    max_bad_slices: int = 0
    patience: float = 3600.0
    logical_workers: int | None = None
    seed: int = 0
    exact: bool = True
    channels_last: bool = True
    callbacks: tuple[Factory, ...] = ()
    checkpoints: Checkpointing | None = None
    export: Export = Export()

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"Training: {name} is {value}; it has to be greater than 0.")
        if self.epochs is not None and self.max_steps is not None:
            raise ConfigurationError(
                f"Training: epochs is {self.epochs} and max_steps is {self.max_steps}; give one of them."
            )
        if self.global_batch is not None and self.batch_per_worker is not None:
            raise ConfigurationError(
                f"Training: global_batch is {self.global_batch} and batch_per_worker is {self.batch_per_worker}; "
                "give one of them."
            )
        for metric in self.metrics or ():
            check_metric(metric)

    def steps(self, steps_per_epoch: int) -> int:
        """How many steps the training has, unless something ends it early."""
        return self.max_steps or (self.epochs or 1) * steps_per_epoch

    def for_workers(self, logical: int) -> TrainingPlan:
        """This plan with its number of logical workers, and what follows from that, written down.

        Args:
            logical: number of logical workers.
        """
        if self.batch_per_worker is None:
            return msgspec.structs.replace(self, logical_workers=logical)
        global_batch = self.batch_per_worker * logical
        factor = {"linear": float(logical), "sqrt": math.sqrt(logical), "none": 1.0}[self.learning_rate_rule]
        train = Factory(entry=self.train.entry, arguments={**self.train.arguments, "global_batch": global_batch})
        return msgspec.structs.replace(
            self,
            logical_workers=logical,
            global_batch=global_batch,
            batch_per_worker=None,
            learning_rate=self.learning_rate * factor,
            train=train,
        )

    @property
    def classifies(self) -> bool:
        """Whether outputs are logits of classes, one of which is right."""
        return self.loss == "cross_entropy"

    @property
    def labels(self) -> bool:
        """Whether outputs are logits of labels, any of which may be right."""
        return self.loss == "binary_cross_entropy"

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics, chosen or by default."""
        if self.metrics is not None:
            return self.metrics
        return ("loss", "accuracy") if self.classifies or self.labels else ("loss",)


_POSITIVE = (
    *("epochs", "max_steps", "max_time", "patience", "learning_rate", "clip_norm", "micro_batches"),
    *("global_batch", "batch_per_worker", "logical_workers"),
)


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
    logical = plan.logical_workers or _logical_workers_of(plan.checkpoints) or workers
    if logical < workers:
        raise ConfigurationError(
            f"{workers} workers for {logical} logical workers; use at most as many workers as logical workers."
        )
    if min_workers is not None and not (1 <= min_workers <= workers and plan.exact):
        raise ConfigurationError(
            f"min_workers is {min_workers} of {workers} workers with exact={plan.exact}; at least 1 and at most all "
            "are possible, and only an exact training can grow."
        )
    recorded = plan.for_workers(logical)
    if recorded.checkpoints is not None:
        folder = str(Path(recorded.checkpoints.folder).absolute())
        settings = msgspec.structs.replace(recorded.checkpoints, folder=folder)
        recorded = msgspec.structs.replace(recorded, checkpoints=settings)
    return Gang(
        id=id,
        entry=Entry(path="ganglion.training.worker:main"),
        arguments={"plan": msgspec.to_builtins(recorded), "store": str(store.absolute()) if store else None},
        resources=Resources(cpu=cpu, memory=memory),
        roles=(Role(name="worker", count=workers, minimum=min_workers),),
        elastic=plan.exact,
        restart=Restart(budget=restarts, backoff=0.05, longest=LONGEST_BACKOFF, alone=True) if plan.exact else NEVER,
        numerics=Numerics(threads=1, mkl=MKL_MODE),
        preload=PRELOAD,
        timeout=timeout,
        import_path=import_path,
        labels=dict(labels or {}),
    )


def _logical_workers_of(checkpoints: Checkpointing | None) -> int | None:
    """How many logical workers the training had that checkpoints are there of."""
    manifest = Archive(Path(checkpoints.folder)).newest() if checkpoints else None
    return manifest.recipe.plan["logical_workers"] if manifest else None
