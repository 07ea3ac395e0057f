"""An order in two stages, for data that cannot be read in any order: blocks are shuffled, then records within windows.

Records that are neighbours in storage form blocks, and a whole block is read at once. Blocks come in a random order;
`window` positions, which are the records of some blocks, are then shuffled among each other. So a reader that holds one
window reads every block once an epoch. As for `Order`, the record at a position is a formula.

What it costs is mixing: a batch has records of the blocks in one window only. Where neighbours are alike (data that is
sorted, or comes from one place), a batch is worth fewer independent records than it has. `mixing` measures how many:
the variance that the mean of a batch would have in a uniform shuffle, divided by the one that it has, where the values
are the records' places in storage. It is the reciprocal of the *design effect* of cluster samples (L. Kish, "Survey
Sampling", 1965). A uniform shuffle has 1, no shuffle about 1/batch; `expected_mixing` is what theory says of an order
in blocks.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.loading.batch_plan import EpochOrder
from ganglion.data.order import Order, Positions, derive_seed, permute

BLOCKS = 64
"""Blocks in a window where nothing else is said."""


class BlockedOrder(msgspec.Struct, frozen=True):
    """The order in which `count` records come, epoch by epoch, by blocks.

    Attributes:
        count: number of records, 1 to 2**62.
        seed: 0 to 2**64 - 1.
        block: records in a block; the last block of the data may have fewer.
        window: consecutive positions that are shuffled among each other; 0 for `BLOCKS` blocks.

    Raises:
        DataError: a number is out of range, or a window has less than a block.
    """

    count: int
    seed: int = 0
    block: int = 1024
    window: int = 0

    def __post_init__(self) -> None:
        Order(self.count, self.seed)
        if self.block < 1 or self.window < 0 or self._window < self.block:
            raise DataError(
                f"Blocks of {self.block} records in windows of {self.window} were asked for; a block has 1 record at "
                "least, and a window a block."
            )

    def at(self, epoch: int, positions: npt.NDArray[Any]) -> Positions:
        """The records at `positions` of `epoch`; arguments, result and errors as for `Order.at`."""
        given = self._checked(positions, "position")
        return self._from_sequence(epoch, self._shuffled(epoch, given.reshape(-1))).reshape(given.shape)

    def inverse(self, epoch: int, records: npt.NDArray[Any]) -> Positions:
        """The positions of `records` in `epoch`: what `at` undoes."""
        given = self._checked(records, "record")
        sequence = self._to_sequence(epoch, given.reshape(-1))
        return self._shuffled(epoch, sequence, back=True).reshape(given.shape)

    @property
    def _window(self) -> int:
        return self.window or BLOCKS * self.block

    def _checked(self, values: npt.NDArray[Any], what: str) -> Positions:
        given = np.asarray(values, np.int64)
        if given.size and not 0 <= int(given.min()) <= int(given.max()) < self.count:
            raise DataError(
                f"A {what} from {given.min()} to {given.max()} was asked for; 0 to {self.count - 1} are possible."
            )
        return given

    def _shuffled(self, epoch: int, positions: Positions, *, back: bool = False) -> Positions:
        """Positions within the sequence of blocks, from those in the epoch, window by window; or the other way."""
        size, seed = self._window, derive_seed(self.seed, "windows")
        window = positions // size
        inside = positions - window * size
        last = self.count // size  # the window that is shorter, if there is one
        mapped = np.empty_like(positions)
        for chosen, length in ((window < last, size), (window == last, self.count - last * size)):
            if chosen.any():
                tweaks = window[chosen].astype(np.uint64)
                mapped[chosen] = permute(length, seed, epoch, inside[chosen], tweaks, back=back)
        return mapped + window * size

    def _from_sequence(self, epoch: int, sequence: Positions) -> Positions:
        """The records at places in the sequence of blocks."""
        full, rest = divmod(self.count, self.block)
        begin = self._place_of_rest(epoch, full) * self.block
        in_rest = (sequence >= begin) & (sequence < begin + rest)
        others = np.where(sequence >= begin + rest, sequence - rest, sequence)
        records = full * self.block + sequence - begin
        if full:
            slot = np.minimum(others // self.block, full - 1)
            block = Order(full, self.seed).at(epoch, slot)
            records = np.where(in_rest, records, block * self.block + others - slot * self.block)
        return records

    def _to_sequence(self, epoch: int, records: Positions) -> Positions:
        full, rest = divmod(self.count, self.block)
        begin = self._place_of_rest(epoch, full) * self.block
        sequence = begin + records - full * self.block
        if full:
            block = np.minimum(records // self.block, full - 1)
            others = Order(full, self.seed).inverse(epoch, block) * self.block + records - block * self.block
            others = np.where(others >= begin, others + rest, others)
            sequence = np.where(records >= full * self.block, sequence, others)
        return sequence

    def _place_of_rest(self, epoch: int, full: int) -> int:
        """Before how many blocks the block that is shorter comes."""
        return derive_seed(self.seed, f"rest {epoch}") % (full + 1)


def mixing(order: EpochOrder, batch: int, epochs: int = 1) -> float:
    """How well an order mixes: which share of the records of a batch are worth as much as independent ones.

    Every position of the epochs is mapped.

    Args:
        order: of at least two batches of records.
        batch: records in a batch.
        epochs: over how many epochs to average.

    Returns:
        About 1 for a uniform shuffle, about 1/`batch` for none.

    Raises:
        DataError: the batch is empty, or there are not two of them.
    """
    batches = order.count // batch if batch > 0 else 0
    if batches < 2:
        raise DataError(f"Batches of {batch} of {order.count} records were asked for; two batches are needed at least.")
    positions = np.arange(batches * batch)
    means = [order.at(epoch, positions).reshape(batches, batch).mean(axis=1) for epoch in range(epochs)]
    observed = float(np.square(np.stack(means) - (order.count - 1) / 2).mean())
    return _variance(order.count, order.count, batch) / observed


def expected_mixing(count: int, block: int, window: int, batch: int) -> float:
    """What `mixing` is for blocks, in theory, where a batch lies within a window: two-stage sampling without return.

    The mean of a batch varies because its window has some of the blocks, and because it has some of the window.

    Args:
        count: records in all.
        block: records in a block.
        window: records in a window.
        batch: records in a batch.
    """
    between = _variance(count, -(-count // block), max(1, window // block))
    within = _variance(count, window, batch)
    return _variance(count, count, batch) / (between + within)


def _variance(count: int, population: int, sample: int) -> float:
    """Variance of the mean of `sample` of `population` values, where all values are the numbers below `count`."""
    return (count**2 - 1) / 12 / sample * max(0, population - sample) / max(1, population - 1)
