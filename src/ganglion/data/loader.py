"""Fixed global batches of a prepared dataset, and the part of each that a process computes.

Global batch *g* of epoch *e* is a function of (dataset, part, seed, global batch size, e, g) alone. It is cut into one
slice for each logical worker: worker *v* of *n* has its records `v * size // n` to `(v + 1) * size // n`. So whichever
processes own which logical workers, together they see every record of the part exactly once in an epoch, in the same
batches. The state of a loader is two integers, the epoch and the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import DataError
from ganglion.data.columns import Columns
from ganglion.data.order import WINDOW, Order, Positions
from ganglion.data.prefetch import prefetch
from ganglion.data.prepared import PreparedDataset, open_dataset
from ganglion.data.schema import records_within
from ganglion.data.split import Part, Split, whole

WHOLE = "all"
"""Name of the part that is the whole dataset."""

_WINDOW_BYTES = 8 * 2**20

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Loader:
    """Batches of one part of a dataset.

    Several iterations may run at the same time, each with a thread of its own.

    Attributes:
        count: records in the part.
        steps_per_epoch: global batches in an epoch.
        global_batch: records in a global batch; the last of an epoch may have fewer.

    Args:
        dataset: where the records are.
        part: which of them; all if `None`.
        global_batch: records in a global batch.
        seed: of the order.
        shuffle: whether each epoch has an order of its own; otherwise records come in the order of the part.
        drop_last: leave the rest of an epoch out that does not fill a global batch, instead of a short last batch.
        prefetch: windows (8,192 records or 8 MiB, whichever is less, but one batch at least) made ahead by a thread;
            0 for no thread.

    Raises:
        DataError: a number is out of range, or there is not one batch in an epoch.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        part: Part | None = None,
        *,
        global_batch: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        prefetch: int = 2,
    ) -> None:
        self._dataset = dataset
        self._part = whole(dataset.count) if part is None else part
        if self._part.order.count != dataset.count:
            raise DataError(f"The part is of {self._part.order.count} records; the dataset has {dataset.count}.")
        if global_batch < 1 or prefetch < 0:
            raise DataError(f"global_batch={global_batch}, prefetch={prefetch}: at least 1 and 0 are needed.")
        self.count = self._part.count
        self.global_batch = global_batch
        self.steps_per_epoch = self.count // global_batch if drop_last else -(-self.count // global_batch)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"The part has {self.count} records, less than one global batch of {global_batch}, and drop_last "
                "leaves them out; make the batch smaller or keep the last one."
            )
        self._order = Order(self.count, seed, shuffle)
        self._prefetch = prefetch

    def batches(self, epoch: int, *, first: int, last: int, of: int, start: int = 0) -> Iterator[Columns]:
        """One process's records of each global batch of an epoch, in order.

        Args:
            epoch: from 0.
            first: first logical worker of this process.
            last: the logical worker after its last.
            of: logical workers in all.
            start: global batch to begin with.

        Returns:
            For each global batch from `start` on, the records of logical workers `first` to `last`: arrays of shape
            `(records, ...)` by column, without a record where a short last batch has none for them. They are this
            iteration's own and may be changed; batches of one window share memory, so keep a copy, not a view, of what
            is to outlive the epoch. Closing the iterator ends its thread.

        Raises:
            DataError: not `0 <= first < last <= of`, or `start` is not within the epoch.
        """
        if not 0 <= first < last <= of:
            raise DataError(
                f"Logical workers {first} to {last} of {of} were asked for; 0 <= first < last <= of is needed."
            )
        if not 0 <= start <= self.steps_per_epoch:
            raise DataError(f"Batch {start} was asked for; an epoch has {self.steps_per_epoch}.")
        return self._batches(epoch, (first, last, of), start)

    def _batches(self, epoch: int, workers: tuple[int, int, int], start: int) -> Iterator[Columns]:
        with closing(prefetch(self._windows(epoch, workers, start), self._prefetch)) as windows:
            for window in windows:
                yield from window

    def _windows(self, epoch: int, workers: tuple[int, int, int], start: int) -> Iterator[list[Columns]]:
        """Batches, as many at a time as make one call of the order and one gather worth their fixed cost."""
        first, last, of = workers
        records = min(WINDOW, records_within(self._dataset.schema, _WINDOW_BYTES))
        length = max(1, records // (self.global_batch * (last - first) // of + 1))
        for step in range(start, self.steps_per_epoch, length):
            steps = range(step, min(step + length, self.steps_per_epoch))
            positions = [self._positions(step, workers) for step in steps]
            columns = self._dataset.take(self._part.records(self._order.at(epoch, np.concatenate(positions))))
            ends = np.cumsum([len(piece) for piece in positions]).tolist()
            yield [
                {name: column[begin:end] for name, column in columns.items()}
                for begin, end in zip([0, *ends], ends, strict=False)
            ]

    def _positions(self, step: int, workers: tuple[int, int, int]) -> Positions:
        """Positions in the epoch of these workers' records in global batch `step`."""
        first, last, of = workers
        begin = step * self.global_batch
        size = min(self.global_batch, self.count - begin)
        return np.arange(begin + first * size // of, begin + last * size // of)


def open_loader(
    *,
    store: str,
    dataset: Artifact | dict[str, Any],
    global_batch: int,
    part: str = WHOLE,
    split: Split | dict[str, Any] | None = None,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    prefetch: int = 2,
) -> Loader:
    """Open a loader from plain data, as a training process does.

    Args:
        store: folder of the artifact store.
        dataset: artifact of a prepared dataset.
        global_batch: records in a global batch.
        part: `all`, or a part of `split`.
        split: how the dataset is divided.
        seed: of the order.
        shuffle: as for `Loader`.
        drop_last: as for `Loader`.
        prefetch: as for `Loader`.

    Raises:
        DataError: an argument is not what it should be, or there is no such part; further errors as for `Loader` and
            `PreparedDataset`.
    """
    opened = open_dataset(_converted(dataset, Artifact), FolderStore(Path(store)))
    if split is not None and part != WHOLE:
        chosen = _converted(split, Split).part(part, opened.count)
    elif part == WHOLE:
        chosen = whole(opened.count)
    else:
        raise DataError(f"The part {part!r} was asked for, and no split; give split={{'parts': {{{part!r}: ...}}}}.")
    return Loader(
        opened, chosen, global_batch=global_batch, seed=seed, shuffle=shuffle, drop_last=drop_last, prefetch=prefetch
    )


def _converted(value: Any, cls: type[Struct]) -> Struct:
    """`value`, or the struct that it describes as plain data."""
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise DataError(f"{value!r} does not describe {cls.__name__}: {error}.") from error
