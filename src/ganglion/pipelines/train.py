"""`train`: one model from ingested data, on a gang of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ganglion.artifacts.package import ImageInput
from ganglion.artifacts.store import Artifact
from ganglion.core import config
from ganglion.execution.entry import Entry, entry_of
from ganglion.pipelines.ingest import HELD_OUT, TRAIN, TrainingData
from ganglion.training import Export, Factory, TrainingPlan, TrainingResult, gang
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
    cpu: float = 1.0,
    epochs: int = 1,
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
        cpu: cores for each; a fraction shares a core with other steps.
        epochs: passes over the training part.
        global_batch: records in a step, over all workers.
        seed: of weights, order and dropout; by default the step's own.
        classes: names of the outputs.
        settings: any other field of `training.TrainingPlan` (`learning_rate`, `schedule`, `optimizer`, ...).
    """
    call = host.call
    chosen = call.seed if seed is None else seed

    def part(which: str, batch: int, shuffle: bool) -> dict[str, Any]:
        source = {"store": str(call.store.root), "dataset": data.dataset, "split": data.split, "part": which}
        return {"entry": LOADER, "arguments": {**source, "global_batch": batch, "seed": chosen, "shuffle": shuffle}}

    image = ImageInput(width=data.image[1], height=data.image[0], mode="L") if data.image else None
    values = {
        "model": Factory(entry=entry_of(model), arguments=model_arguments or {}),
        "train": part(TRAIN, global_batch, True),
        "held_out": part(HELD_OUT, 1000, False),
        "epochs": epochs,
        "seed": chosen,
        "classes": classes,
        "export": Export(image=image, lineage={"step": call.step, "dataset": data.dataset.digest}),
        **settings,
    }
    plan = config.convert(TrainingPlan, msgspec.to_builtins(values), where=f"step {call.step}")
    spec = gang(
        plan,
        id=host.job_id(),
        workers=workers,
        store=call.store.root,
        cpu=cpu,
        timeout=call.options.timeout,
        import_path=call.import_path,
        labels=call.labels,
    )
    outcome = host.run(spec)
    outcome.raise_for_failure()
    result = msgspec.convert(outcome.value, TrainingResult)
    assert result.artifact is not None, "a store was given"
    return Candidate(name=name, package=result.artifact, metrics=result.metrics, parameters=result.parameters)
