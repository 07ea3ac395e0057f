"""Measuring a model on held-out records, each of them exactly once, by all processes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import torch

from ganglion.core.errors import DataError
from ganglion.training.losses import Loss
from ganglion.training.metrics import Sums, means, measure, merge
from ganglion.training.source import BatchSource, records_of
from ganglion.training.tensors import Columnizer


def evaluate(
    model: torch.nn.Module,
    source: BatchSource,
    *,
    names: Sequence[str],
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
        names: the measures.
        loss: mean over records.
        columnizer: picks inputs and targets.
        gather: gives every process the bytes of all of them, by rank.
        span: the logical workers of this process.
        logical: number of logical workers.

    Raises:
        DataError: the slices do not hold every record once.
    """
    training = model.training
    model.eval()
    mine = [_sums_of_slice(model, source, worker, logical, names, loss, columnizer) for worker in span]
    model.train(training)
    everyone = [msgspec.msgpack.decode(sums, type=list[Sums]) for sums in gather(msgspec.msgpack.encode(mine))]
    total = merge(sums for process in everyone for sums in process)
    if total.get("records", 0.0) != source.count:
        raise DataError(
            f"The held-out source says that it has {source.count} records, but its slices hold "
            f"{total.get('records', 0.0):.0f}."
        )
    return means(total)


@torch.no_grad()
def _sums_of_slice(
    model: torch.nn.Module,
    source: BatchSource,
    worker: int,
    logical: int,
    names: Sequence[str],
    loss: Loss,
    columnizer: Columnizer,
) -> Sums:
    parts = []
    for columns in source.batches(0, first=worker, last=worker + 1, of=logical):
        if records_of(columns) > 0:
            inputs, targets = columnizer(columns)
            outputs = model(inputs)
            parts.append(measure(names, outputs, targets, float(loss(outputs, targets))))
    return merge(parts)
