"""Which records global batch *g* of epoch *e* has, and which of them each logical worker computes; pure.

Global batch *g* of epoch *e* is a function of (dataset, part, seed, global batch size, e, g) alone. It is cut into one
slice for each logical worker: worker *v* of *n* has its records `v * size // n` to `(v + 1) * size // n`. So whichever
processes own which logical workers, together they see every record of the part exactly once in an epoch, in the same
batches; and a batch in the middle of an epoch costs what the first costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.loading.leases import lease
from ganglion.data.order import WINDOW, Positions
from ganglion.data.parts.part import Part

_RAMP = 4


class EpochOrder(Protocol):
    """An order of `count` records for every epoch."""

    @property
    def count(self) -> int:
        """Number of records."""
        ...

    def at(self, epoch: int, positions: npt.NDArray[Any]) -> Positions:
        """The records at `positions` of `epoch`."""
        ...


@dataclass(frozen=True)
class Span:
    """Consecutive logical workers: those that one process computes.

    Attributes:
        first: the first.
        last: the one after the last.
        of: logical workers in all.

    Raises:
        DataError: not `0 <= first < last <= of`.
    """

    first: int
    last: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= self.of:
            raise DataError(
                f"Logical workers {self.first} to {self.last} of {self.of} were asked for; 0 <= first < last <= of is "
                "needed."
            )


@dataclass(frozen=True)
class Steps:
    """Consecutive global batches, as far as they are one process's.

    Attributes:
        first: the first of them.
        records: of the dataset, all batches one after the other.
        ends: where each batch ends in `records`.
    """

    first: int
    records: Positions
    ends: tuple[int, ...]


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of every epoch.

    Attributes:
        part: the records that are delivered.
        order: in which they come.
        global_batch: records in a global batch; the last of an epoch may have fewer.
        drop_last: leave the rest of an epoch out that does not fill a global batch.

    Raises:
        DataError: the batch has no record, or the epoch no batch.
    """

    part: Part
    order: EpochOrder
    global_batch: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise DataError(f"global_batch={self.global_batch}: at least 1 is needed.")
        if self.steps == 0:
            raise DataError(
                f"The part has {self.count} records, less than one global batch of {self.global_batch}, and drop_last "
                "leaves them out; make the batch smaller or keep the last one."
            )

    @property
    def count(self) -> int:
        """Records in the part."""
        return self.part.count

    @property
    def steps(self) -> int:
        """Global batches in an epoch."""
        return self.count // self.global_batch if self.drop_last else -(-self.count // self.global_batch)

    def positions(self, step: int, span: Span) -> Positions:
        """Positions in the epoch of the records that `span` has of global batch `step`."""
        begin = step * self.global_batch
        size = min(self.global_batch, self.count - begin)
        return np.arange(begin + span.first * size // span.of, begin + span.last * size // span.of)

    def between(self, epoch: int, start: int, stop: int, span: Span) -> Steps:
        """The records that `span` has of the global batches `start` to `stop` (exclusive)."""
        if span.last - span.first == span.of:  # all of every batch: one run of positions
            end = min(stop * self.global_batch, self.count)
            positions = np.arange(start * self.global_batch, end)
            ends = [*range(self.global_batch, len(positions), self.global_batch), len(positions)]
        else:
            pieces = [self.positions(step, span) for step in range(start, stop)]
            positions = np.concatenate(pieces)
            ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        return Steps(start, self.part.records(self.order.at(epoch, positions)), tuple(ends))

    def epoch(self, epoch: int, span: Span, start: int = 0) -> Iterator[Steps]:
        """The records that `span` has of each global batch from `start` on, several batches at a time.

        The first has one batch, so that it is there soon; later ones have as many as make a call of the order worth
        its fixed cost. Nothing is computed for batches before `start`.

        Raises:
            DataError: `start` is not within the epoch.
        """
        self.check_start(start)
        return self._epoch(epoch, span, start)

    def check_start(self, start: int) -> None:
        """Refuse a batch to begin with that is not within the epoch.

        Raises:
            DataError: it is not.
        """
        if not 0 <= start <= self.steps:
            raise DataError(f"Batch {start} was asked for; an epoch has {self.steps}.")

    def _epoch(self, epoch: int, span: Span, start: int) -> Iterator[Steps]:
        most = max(1, WINDOW // (self.global_batch * (span.last - span.first) // span.of + 1))
        length = 1
        while start < self.steps:
            stop = min(start + length, self.steps)
            yield self.between(epoch, start, stop, span)
            start, length = stop, min(most, length * _RAMP)


def span_of(rank: int, world: int, logical: int | None = None, speeds: Sequence[float] | None = None) -> Span:
    """The logical workers of a rank: as many as of every other within one, or as many as its speed is worth.

    Args:
        rank: from 0.
        world: number of ranks.
        logical: logical workers in all; as many as ranks if `None`.
        speeds: of every rank; see `leases`.

    Raises:
        DataError: there is no such rank, there are too few logical workers, or speeds are not one for each rank.
    """
    of = world if logical is None else logical
    if not 0 <= rank < world or (speeds is not None and len(speeds) != world):
        raise DataError(
            f"Rank {rank} of {world} was asked for, with the speeds {speeds}; 0 <= rank < world is needed, and a speed "
            "for each rank or none."
        )
    if speeds is not None:
        mine = lease(speeds, of)[rank]
        return Span(mine.start, mine.stop, of)
    if of < world:
        raise DataError(f"{of} logical workers cannot occupy {world} ranks; use as many as ranks at least.")
    return Span(rank * of // world, (rank + 1) * of // world, of)
