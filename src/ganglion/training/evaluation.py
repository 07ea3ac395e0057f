"""Measuring a model on held-out records, each of them exactly once, and what it says of records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from ganglion.core.errors import DataError
from ganglion.execution.entry import Entry
from ganglion.training.losses import Loss, load_loss
from ganglion.training.metrics import Metric, Sums, find_metrics, measure, merge, values
from ganglion.training.plan import Factory
from ganglion.training.source import BatchSource, present, records_of
from ganglion.training.tensors import Columnizer


def evaluate(
    model: torch.nn.Module,
    source: BatchSource | Factory,
    *,
    metrics: Sequence[str] = ("loss", "accuracy"),
    loss: str | Entry = "cross_entropy",
    input_column: str = "image",
    target_column: str = "label",
) -> dict[str, float]:
    """Measure a model on all records of a source, in this process.

    Args:
        model: it is left in training mode if it was.
        source: the records, or what builds their source.
        metrics: what is measured, as in `TrainingPlan`, like the next three.
        loss: mean over records.
        input_column: what the model is called with.
        target_column: what its output is compared to.

    Raises:
        ConfigurationError: there is no such loss or metric.
        DataError: records lack a column, a target is out of range, or there are no usable records.
    """
    opened: BatchSource = source.build() if isinstance(source, Factory) else source
    return evaluate_together(
        model,
        opened,
        metrics=find_metrics(metrics),
        loss=load_loss(loss),
        columnizer=Columnizer(input_column=input_column, target_column=target_column, channels_last=True),
        gather=lambda sums: [sums],
        span=range(1),
        logical=1,
    )


@torch.no_grad()
def predict(
    model: torch.nn.Module, source: BatchSource | Factory, *, input_column: str = "image"
) -> Iterator[npt.NDArray[np.generic]]:
    """What a model says of the records of a source, batch after batch, in the order of the source.

    Args:
        model: it is left in training mode if it was.
        source: the records, or what builds their source.
        input_column: what the model is called with.

    Yields:
        The outputs for one batch, [records, ...]; records that turn out to be bad are left out.

    Raises:
        DataError: the records lack the column.
    """
    opened: BatchSource = source.build() if isinstance(source, Factory) else source
    columnizer = Columnizer(input_column=input_column, target_column=input_column, channels_last=True)
    for columns in opened.batches(0, first=0, last=1, of=1):
        if records_of(there := present(columns)):
            with _evaluating(model):
                outputs = model(columnizer(there)[0])
            yield outputs.numpy()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def evaluate_together(
    model: torch.nn.Module,
    source: BatchSource,
    *,
    metrics: Mapping[str, Metric],
    loss: Loss,
    columnizer: Columnizer,
    gather: Callable[[bytes], list[bytes]],
    span: range,
    logical: int,
) -> dict[str, float]:
    """Measure `model`; every process gets the result for all records.

    Sums are exact in number and added in the order of the logical workers, so that the result does not depend on how
    many processes took part. Nothing is changed, so it may be repeated.

    Args:
        model: the same on every process; it is left in training mode if it was.
        source: the held-out records.
        metrics: the measures, by name.
        loss: mean over records.
        columnizer: picks inputs and targets.
        gather: gives every process the bytes of all of them, by rank.
        span: the logical workers of this process.
        logical: number of logical workers.

    Raises:
        DataError: the slices do not hold every record once, or all records are bad.
    """
    with _evaluating(model):
        mine = [_sums_of_slice(model, source, worker, logical, metrics, loss, columnizer) for worker in span]
    everyone = [msgspec.msgpack.decode(sums, type=list[Sums]) for sums in gather(msgspec.msgpack.encode(mine))]
    total = merge(sums for process in everyone for sums in process)
    (records,), (left_out,) = total.get("records", [0.0]), total.get("left_out", [0.0])
    if records + left_out != source.count:
        raise DataError(
            f"The held-out source says that it has {source.count} records, but its slices hold "
            f"{records + left_out:.0f}."
        )
    if not records:
        raise DataError(f"All {source.count} held-out records are bad; there is nothing to measure on.")
    return values(metrics, total)


@torch.no_grad()
def _sums_of_slice(
    model: torch.nn.Module,
    source: BatchSource,
    worker: int,
    logical: int,
    metrics: Mapping[str, Metric],
    loss: Loss,
    columnizer: Columnizer,
) -> Sums:
    parts: list[Sums] = []
    for columns in source.batches(0, first=worker, last=worker + 1, of=logical):
        there = present(columns)
        if records_of(there) > 0:
            inputs, targets = columnizer(there)
            outputs = model(inputs)
            mean = float(loss(outputs, targets))
            parts.append(measure(metrics, outputs.cpu(), targets.cpu(), mean))
        parts.append({"left_out": [float(records_of(columns) - records_of(there))]})
    return merge(parts)
