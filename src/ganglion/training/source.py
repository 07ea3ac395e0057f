"""Where a training loop gets its records from: the protocol that a loader satisfies.

The global batch of every step is cut into as many slices as there are *logical* workers. Which records a slice holds
depends on nothing but (source, epoch, step, number of logical workers); which process computes it is no concern of
the source. Of a global batch of `size` records, logical worker *v* of *n* has those from `v * size // n` to
`(v + 1) * size // n`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]
"""Records by column; the first axis of every array counts the records."""


MASK = "mask"
"""Name of a column that says which records are there."""


class BatchSource(Protocol):
    """Batches of records, in an order that is a function of the epoch.

    Attributes:
        count: records in one epoch.
        steps_per_epoch: global batches in one epoch; the last one may be short.
        global_batch: records in every other global batch.
    """

    count: int
    steps_per_epoch: int
    global_batch: int

    def batches(self, epoch: int, *, first: int, last: int, of: int, start: int = 0) -> Iterator[Columns]:
        """Yield, for each global batch of `epoch` from step `start`, the records of some logical workers.

        Args:
            epoch: from 0.
            first: the first logical worker.
            last: the logical worker after the last one.
            of: number of logical workers.
            start: the step to begin with.

        Returns:
            One mapping for each remaining step, with the slices of `first` to `last - 1` one after another; the arrays
            are empty where a short batch has nothing for them. A record that turned out to be bad keeps its place, and
            the column `mask`, bool [records], is false there; it is not used.
        """
        ...


def slice_bounds(worker: int, logical: int, size: int) -> slice:
    """The records of one logical worker within a global batch of `size` records."""
    return slice(worker * size // logical, (worker + 1) * size // logical)


def records_of(columns: Columns) -> int:
    """How many records `columns` hold."""
    return len(next(iter(columns.values()))) if columns else 0


def part_of(columns: Columns, bounds: slice) -> Columns:
    """Some of the records."""
    return {name: column[bounds] for name, column in columns.items()}


def present(columns: Columns) -> Columns:
    """The records that are there: a source may keep the places of bad ones and say so in the column `mask`."""
    if MASK not in columns:
        return columns
    there = columns[MASK]
    return {name: column if there.all() else column[there] for name, column in columns.items() if name != MASK}


def writable(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`column` in one piece of memory that may be written to, copied only where it is not (a memory map)."""
    return np.require(column, requirements=["C", "W"])
