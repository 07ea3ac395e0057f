"""The order of records as a formula: an invertible permutation of positions for each seed and epoch.

No list of indices is ever made: the record at position *p* of epoch *e* is a pure function of (seed, e, p), in O(1)
memory, and so is the position of a record.

The permutation is a generalised Feistel network (J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains",
CT-RSA 2002): a position is split into (row, column) of a grid, and rounds add to one of the two a pseudo-random
function of the other. The grid has two unlike sides, chosen so that it has hardly more cells than there are records;
what falls outside is mapped again until it is inside (cycle walking), which is rare for every count, where the usual
power-of-two network needs up to four times the work just above a power of two.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError

Positions = npt.NDArray[np.int64]
_Cells = npt.NDArray[np.uint64]

WINDOW = 8192
"""Positions mapped at once: enough to amortise the cost of NumPy calls, few enough to stay in the cache."""

LARGEST = 2**62
"""The largest number of records."""

_SIDES_TRIED = 64
_SMALL, _FEW_ROUNDS, _MANY_ROUNDS = 1024, 4, 8  # a function of a handful of values mixes little in one round
_TABULATED = 2048  # a side's draws up to this many fit in the processor's first cache, and looking one up is faster
_MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_HALF = np.uint64(32)
_Key: TypeAlias = "np.uint64 | _Cells"
_Step: TypeAlias = "Callable[[_Permutation, _Cells, _Key], _Cells]"
_Draw: TypeAlias = "Callable[[_Cells], _Cells]"
_NONE = np.uint64(0)


class Order(msgspec.Struct, frozen=True):
    """The order in which `count` records come, epoch by epoch.

    Attributes:
        count: number of records, 1 to 2**62.
        seed: 0 to 2**64 - 1.
        shuffle: `False` for the records' own order in every epoch.

    Raises:
        DataError: `count` or `seed` is out of range.
    """

    count: int
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.count <= LARGEST:
            raise DataError(f"An order of {self.count} records was asked for; 1 to 2**62 are possible.")
        _check_word("seed", self.seed)

    def at(self, epoch: int, positions: npt.NDArray[Any]) -> Positions:
        """The records at `positions` of `epoch`.

        Args:
            epoch: 0 to 2**64 - 1.
            positions: integers from 0 to `count` - 1, of any shape.

        Returns:
            Records from 0 to `count` - 1, of the same shape.

        Raises:
            DataError: an argument is out of range.
        """
        return self._map(epoch, positions, "position", _Permutation.forward)

    def inverse(self, epoch: int, records: npt.NDArray[Any]) -> Positions:
        """The positions of `records` in `epoch`: what `at` undoes. Arguments and errors as for `at`."""
        return self._map(epoch, records, "record", _Permutation.backward)

    def _map(self, epoch: int, values: npt.NDArray[Any], what: str, step: _Step) -> Positions:
        _check_word("epoch", epoch)
        given = np.asarray(values)
        if given.size and not 0 <= int(given.min()) <= int(given.max()) < self.count:
            raise DataError(
                f"A {what} from {given.min()} to {given.max()} was asked for; 0 to {self.count - 1} are possible."
            )
        if not self.shuffle:
            return given.astype(np.int64)
        permutation = _permutation(self.count, self.seed, epoch)
        flat = given.reshape(-1).astype(np.uint64)
        for first in range(0, flat.size, WINDOW):
            window = flat[first : first + WINDOW]
            window[:] = _walk(permutation, step, window)
        return flat.astype(np.int64).reshape(given.shape)


def permute(
    count: int, seed: int, epoch: int, positions: Positions, tweaks: npt.NDArray[np.uint64], *, back: bool = False
) -> Positions:
    """Many orders of the same length at once: each position is mapped in the order that its tweak stands for.

    Args:
        count: length of the orders.
        seed: as for `Order`.
        epoch: as for `Order.at`.
        positions: from 0 to `count` - 1, of shape `(n,)`.
        tweaks: for each position any number; equal ones stand for the same order.
        back: whether to find the positions of records instead.

    Returns:
        Records, or positions, from 0 to `count` - 1, of shape `(n,)`.
    """
    permutation = _permutation(count, seed, epoch)
    step = _Permutation.backward if back else _Permutation.forward
    keys = (tweaks + np.uint64(1)) * _MULTIPLIERS[0]
    keys = (keys ^ (keys >> _HALF)) * _MULTIPLIERS[1]
    mapped = positions.astype(np.uint64)
    for first in range(0, mapped.size, WINDOW):
        window = slice(first, first + WINDOW)
        mapped[window] = _walk(permutation, step, mapped[window], keys[window])
    return mapped.astype(np.int64)


def derive_seed(seed: int, purpose: str) -> int:
    """A seed for `purpose` that has nothing to do with `seed` itself or with other purposes."""
    _check_word("seed", seed)
    digest = hashlib.blake2b(purpose.encode(), digest_size=8, key=struct.pack("<Q", seed)).digest()
    return int.from_bytes(digest, "little")


class _Permutation:
    """One seed's and epoch's permutation of the cells of a grid with at least `count` cells."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        rows, columns = _grid(count)
        self.count = np.uint64(count)
        self.full = rows * columns == count
        self._rows, self._columns = np.uint64(rows), np.uint64(columns)
        rounds = _FEW_ROUNDS if count > _SMALL else _MANY_ROUNDS
        stream = hashlib.shake_128(struct.pack("<QQQ", count, seed, epoch)).digest(16 * rounds)
        self._rounds = tuple(np.frombuffer(stream, "<u8").reshape(rounds, 2))
        self._cells_seen = 0

    def forward(self, cells: _Cells, tweak: _Key = _NONE) -> _Cells:
        row, column = self._split(cells)
        for draw_row, draw_column in self._draws(cells.size, tweak):
            row = _add(row, draw_row(column), self._rows)
            column = _add(column, draw_column(row), self._columns)
        return row * self._columns + column

    def backward(self, cells: _Cells, tweak: _Key = _NONE) -> _Cells:
        row, column = self._split(cells)
        for draw_row, draw_column in reversed(self._draws(cells.size, tweak)):
            column = _subtract(column, draw_column(row), self._columns)
            row = _subtract(row, draw_row(column), self._rows)
        return row * self._columns + column

    def _draws(self, size: int, tweak: _Key) -> list[tuple[_Draw, _Draw]]:
        """What each round adds to rows, of the column, and to columns, of the row; for `size` cells."""
        if tweak is _NONE and max(self._rows, self._columns) <= _TABULATED:
            self._cells_seen += size
            if self._cells_seen >= self._rows:  # else the tables would cost more than they save
                return self._tables
        return [
            (partial(_draw, key=row_key ^ tweak, side=self._rows), partial(_draw, key=key ^ tweak, side=self._columns))
            for row_key, key in self._rounds
        ]

    @cached_property
    def _tables(self) -> list[tuple[_Draw, _Draw]]:
        rows, columns = (np.arange(side, dtype=np.uint64) for side in (self._rows, self._columns))
        return [
            (_look_up(_draw(columns, row_key, self._rows)), _look_up(_draw(rows, column_key, self._columns)))
            for row_key, column_key in self._rounds
        ]

    def _split(self, cells: _Cells) -> tuple[_Cells, _Cells]:
        row = cells // self._columns
        return row, cells - row * self._columns


@lru_cache(maxsize=64)
def _permutation(count: int, seed: int, epoch: int) -> _Permutation:
    return _Permutation(count, seed, epoch)


def _walk(permutation: _Permutation, step: _Step, cells: _Cells, tweak: _Key = _NONE) -> _Cells:
    """Apply `step`, again and again to what is outside of the records; the cycle that it came from leads back."""
    mapped = step(permutation, cells, tweak)
    if permutation.full:
        return mapped
    outside = np.flatnonzero(mapped >= permutation.count)
    while outside.size:
        again = step(permutation, mapped[outside], tweak[outside] if isinstance(tweak, np.ndarray) else tweak)
        mapped[outside] = again
        outside = outside[again >= permutation.count]
    return mapped


def _grid(count: int) -> tuple[int, int]:
    """Sides of a nearly square grid with at least `count` cells, and as few more as can be found.

    Both sides are at least 2 where `count` is more than 2: with a side of 1 the network could only rotate.
    """
    root = math.isqrt(count - 1) + 1
    candidates = ((rows, -(-count // rows)) for rows in range(root, min(root + _SIDES_TRIED, 2 * root)))
    return min(
        (grid for grid in candidates if grid[1] > 1 or count <= 2),
        key=lambda grid: grid[0] * grid[1],
        default=(1, 1),
    )


def _draw(values: _Cells, key: _Key, side: np.uint64) -> _Cells:
    """A pseudo-random number below `side` for each value and key; by multiplication, since division is slow."""
    mixed = (values ^ key) * _MULTIPLIERS[0]
    mixed ^= mixed >> _HALF
    mixed *= _MULTIPLIERS[1]
    mixed >>= _HALF
    mixed *= side
    mixed >>= _HALF
    return mixed


def _look_up(table: _Cells) -> _Draw:
    """The draws in a table, by their numbers."""

    def draw(values: _Cells) -> _Cells:
        return table.take(values.view(np.int64), mode="clip")  # all are inside; checking is what the other modes do

    return draw


def _add(values: _Cells, terms: _Cells, side: np.uint64) -> _Cells:
    """`(values + terms) % side`, both below `side`: what is below it wraps around when `side` is taken off.

    Terms are overwritten.
    """
    total = np.add(values, terms, out=terms)
    return np.minimum(total, total - side, out=total)


def _subtract(values: _Cells, terms: _Cells, side: np.uint64) -> _Cells:
    """`(values - terms) % side`, both below `side`: what is negative has wrapped around, and comes back with `side`.

    Terms are overwritten.
    """
    total = np.subtract(values, terms, out=terms)
    return np.minimum(total, total + side, out=total)


def _check_word(name: str, value: int) -> None:
    if not 0 <= value < 2**64:
        raise DataError(f"The {name} is {value}; 0 to 2**64 - 1 are possible.")
