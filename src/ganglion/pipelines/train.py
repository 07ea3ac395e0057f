"""`train`: one model from ingested data, on a gang of workers; as a step of a pipeline, or on its own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec

from ganglion.artifacts.package import ImageInput
from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core import config
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.core.events import Event
from ganglion.data import PlainSource, PreparedDataset
from ganglion.execution.entry import Entry
from ganglion.pipelines.ingest import HELD_OUT, TRAIN, TrainingData, training_data
from ganglion.training import Export, Factory, TrainingPlan, TrainingResult, gang
from ganglion.training.notes import note_text
from ganglion.workflow import Host, operation

LOADER = Entry(path="ganglion.data.loading.loader:open_loader")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A trained model that can be selected.

    Attributes:
        name: of the training.
        package: the model package in the store.
        metrics: on the held-out part, and `train_loss`.
        parameters: how many numbers were trained.
    """

    name: str
    package: Artifact
    metrics: dict[str, float]
    parameters: int


@operation(kind="training", named_by="name")
def train(
    host: Host,
    /,
    data: TrainingData,
    model: Callable[..., Any],
    name: str = "train",
    model_arguments: dict[str, Any] | None = None,
    workers: int = 2,
    min_workers: int | None = None,
    cpu: float = 1.0,
    epochs: int | None = None,
    global_batch: int = 128,
    seed: int | None = None,
    classes: tuple[str, ...] = (),
    **settings: Any,
) -> Candidate:
    """Train `model` by synchronous data parallelism and package it for serving.

    Args:
        host: given by the engine.
        data: what `ingest` returned.
        model: builds the `torch.nn.Module`; it takes the images as they are stored.
        name: of the training and of the step.
        model_arguments: keyword arguments of `model`.
        workers: number of processes.
        min_workers: how many the training begins with, the others join as resources come; by default all.
        cpu: cores for each; a fraction shares a core with other steps.
        epochs: passes over the training part; one, unless `max_steps` is among the settings.
        global_batch: records in a step, over all workers.
        seed: of weights, order and dropout; by default the step's own.
        classes: names of the outputs; by default those that the data knows.
        settings: any other field of `training.TrainingPlan` (`learning_rate`, `schedule`, `optimizer`, ...).
    """
    call = host.call
    chosen = call.seed if seed is None else seed

    plan = plan_of(
        data,
        call.store,
        model=Factory.of(model, **(model_arguments or {})),
        global_batch=global_batch,
        seed=chosen,
        lineage={"step": call.step},
        settings={"epochs": epochs, "classes": classes, **settings},
        where=f"step {call.step}",
    )
    spec = gang(
        plan,
        id=host.job_id(),
        workers=workers,
        min_workers=min_workers,
        store=call.store.root,
        cpu=cpu,
        timeout=call.options.timeout,
        import_path=call.import_path,
        labels=call.labels,
    )

    def hear(event: Event) -> None:
        if line := note_text(event):
            host.note(line, getattr(event, "member", ""))

    outcome = host.run(spec, hear)
    outcome.raise_for_failure()
    result = msgspec.convert(outcome.value, TrainingResult)
    assert result.artifact is not None, "a store was given"
    if result.checkpoint_problem:
        host.note(f"warning: the last checkpoint could not be saved: {result.checkpoint_problem}")
    return Candidate(name=name, package=result.artifact, metrics=result.metrics, parameters=result.parameters)


class Training:
    """A model and the source that it learns from: what `ganglion train` finds in a file.

    Args:
        model: builds the `torch.nn.Module`; it takes the input column as it is stored.
        data: where the records come from; they are prepared once.
        model_arguments: keyword arguments of `model`.
        held_out: fraction of the records that the model is measured on.
        global_batch: records in a step, over all workers.
        seed: of weights, order and dropout.
        settings: any other field of `training.TrainingPlan` (`epochs`, `learning_rate`, `schedule`, ...).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        data: PlainSource,
        *,
        model_arguments: dict[str, Any] | None = None,
        held_out: float = 0.1,
        global_batch: int = 128,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.model = model
        self.data = data
        self._values: dict[str, Any] = {
            "model": model_arguments or {},
            "held_out": held_out,
            "global_batch": global_batch,
            "seed": seed,
            **settings,
        }

    def changed(self, overrides: Iterable[str]) -> Self:
        """The same with other values: `key=value`, and `model.key=value` for an argument of the model.

        Raises:
            ConfigurationError: there is no such key.
        """
        given = list(overrides)
        fields = {*TrainingPlan.__struct_fields__, "held_out", "global_batch", "seed"} - {"model", "train"}
        arguments = inspect.signature(self.model).parameters
        for text in given:
            first, *rest = config.parse_override(text)[0]
            if first == "model" and rest[:1] and rest[0] not in arguments:
                raise ConfigurationError(f"The model has no argument {rest[0]!r}. {suggest(rest[0], arguments)}")
            if first not in fields and not (first == "model" and rest):
                allowed = [*sorted(fields), *(f"model.{name}" for name in arguments)]
                raise ConfigurationError(f"Unknown key {first!r} for the training. {suggest(first, allowed)}")
        other = copy.copy(self)
        other._values = config.merge(msgspec.to_builtins(self._values), given)
        return other

    def plan(self, prepared: PreparedDataset, store: FolderStore) -> TrainingPlan:
        """What is to be done, once the records are prepared.

        Args:
            prepared: the records of `data`.
            store: that has them.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        settings = dict(self._values)
        return plan_of(
            training_data(prepared, settings.pop("held_out"), 0),
            store,
            model=Factory.of(self.model, **settings.pop("model")),
            global_batch=settings.pop("global_batch"),
            seed=settings.pop("seed"),
            lineage={},
            settings=settings,
            where="training",
        )


def plan_of(
    data: TrainingData,
    store: FolderStore,
    *,
    model: Factory,
    global_batch: int,
    seed: int,
    lineage: dict[str, str],
    settings: dict[str, Any],
    where: str,
) -> TrainingPlan:
    """The plan of a training on ingested data.

    Args:
        data: what is learned from and measured on.
        store: that has it.
        model: builds the module.
        global_batch: records in a step.
        seed: of weights, order and dropout.
        lineage: of the package.
        settings: other fields of the plan, as structs or plain data.
        where: what errors are about.

    Raises:
        ConfigurationError: a setting is unknown or wrong.
    """

    def part(which: str, batch: int, shuffle: bool) -> dict[str, Any]:
        source = {"store": str(store.root), "dataset": data.dataset, "split": data.split, "part": which}
        return {"entry": LOADER, "arguments": {**source, "global_batch": batch, "seed": seed, "shuffle": shuffle}}

    image = ImageInput(width=data.image[1], height=data.image[0], mode="L") if data.image else None
    values = {
        "model": model,
        "train": part(TRAIN, global_batch, True),
        "held_out": part(HELD_OUT, 1000, False),
        "seed": seed,
        "export": Export(image=image, lineage={**lineage, "dataset": data.dataset.digest}),
        **settings,
    }
    values["classes"] = values.get("classes") or data.classes
    return config.convert(TrainingPlan, msgspec.to_builtins(values), where=where)
