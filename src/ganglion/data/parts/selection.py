"""Some records of many as a bitmap, with rank and select: which is the n-th, and the how-many-eth is this one?

One bit for each record and one number for each block of 512 of them (G. Jacobson, "Space-efficient Static Trees and
Graphs", FOCS 1989). Both questions are answered for whole arrays at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError

Numbers = npt.NDArray[np.int64]

_BLOCK = 64  # bytes whose bits are counted together
_AT_ONCE = 8192
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_COUNTS = _BITS.sum(axis=1, dtype=np.uint8)
_BELOW = (np.cumsum(_BITS, axis=1) - _BITS).astype(np.uint8)  # set bits below each bit of a byte
_PLACES = np.zeros((256, 8), np.uint8)  # the n-th set bit of a byte
for _byte in range(256):
    _PLACES[_byte, : _COUNTS[_byte]] = np.flatnonzero(_BITS[_byte])


class Selection(msgspec.Struct, frozen=True, dict=True):
    """Which of `of` records are selected.

    Attributes:
        of: records in all.
        bits: one for each record, the first as the lowest of the first byte; those beyond the last record are 0.

    Raises:
        DataError: the number of bytes is not that of so many records, or bits beyond the last are set.
    """

    of: int
    bits: bytes

    def __post_init__(self) -> None:
        used = self.of % 8
        if self.of < 0 or len(self.bits) != -(-self.of // 8) or (used and self.bits[-1] >> used):
            raise DataError(f"A selection of {self.of} records was given {len(self.bits)} bytes that do not fit them.")

    @classmethod
    def join(cls, masks: Iterable[npt.NDArray[np.bool_]]) -> Self:
        """Build a selection from masks that follow each other, one value for each record, of any lengths."""
        pieces: list[bytes] = []
        count = 0
        rest = np.zeros(0, bool)
        for mask in masks:
            count += len(mask)
            joined = np.concatenate([rest, mask])
            whole = len(joined) // 8 * 8
            pieces.append(np.packbits(joined[:whole], bitorder="little").tobytes())
            rest = joined[whole:]
        pieces.append(np.packbits(rest, bitorder="little").tobytes())
        return cls(count, b"".join(pieces))

    @cached_property
    def count(self) -> int:
        """Selected records."""
        return int(self._before[-1])

    def has(self, records: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether records, from 0 to `of` - 1, are selected; of the same shape.

        Raises:
            DataError: a record is out of range.
        """
        given = self._checked(records, self.of, "records")
        selected: npt.NDArray[np.bool_] = (self._bytes[given >> 3] >> (given & 7).astype(np.uint8)) & 1 == 1
        return selected

    def rank(self, records: npt.NDArray[Any]) -> Numbers:
        """How many selected records come before each of `records`, from 0 to `of`; of the same shape.

        Raises:
            DataError: a record is out of range.
        """
        given = self._checked(records, self.of + 1, "records").reshape(-1)
        ranks = np.empty(len(given), np.int64)
        for start in range(0, len(given), _AT_ONCE):
            part = given[start : start + _AT_ONCE]
            byte = part >> 3
            block = byte // _BLOCK
            counts = _COUNTS[self._blocks[block]]
            counts[np.arange(_BLOCK) >= (byte % _BLOCK)[:, None]] = 0
            partial = _BELOW[self._blocks[block, byte % _BLOCK], part & 7]
            ranks[start : start + _AT_ONCE] = self._before[block] + counts.sum(axis=1, dtype=np.int64) + partial
        return ranks.reshape(np.shape(records))

    def select(self, numbers: npt.NDArray[Any]) -> Numbers:
        """The records that are selected `numbers`-th, from 0 to `count` - 1, in their order; of the same shape.

        Raises:
            DataError: a number is out of range.
        """
        given = self._checked(numbers, self.count, "selected records").reshape(-1)
        found = np.empty(len(given), np.int64)
        for start in range(0, len(given), _AT_ONCE):
            part = given[start : start + _AT_ONCE]
            block = np.searchsorted(self._before, part, side="right") - 1
            left = part - self._before[block]
            ends = np.cumsum(_COUNTS[self._blocks[block]], axis=1, dtype=np.int64)
            byte = (ends <= left[:, None]).sum(axis=1)
            rows = np.arange(len(part))
            values = self._blocks[block, byte]
            left -= ends[rows, byte] - _COUNTS[values]
            found[start : start + _AT_ONCE] = (block * _BLOCK + byte) * 8 + _PLACES[values, left]
        return found.reshape(np.shape(numbers))

    def complement(self) -> Selection:
        """The records that are not selected."""
        bits = ~self._bytes
        if self.of % 8:
            bits[-1] &= (1 << self.of % 8) - 1
        return Selection(self.of, bits.tobytes())

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.bits, np.uint8)

    @cached_property
    def _blocks(self) -> npt.NDArray[np.uint8]:
        """The bytes by block; padded, and with one more block so that the end has a place too."""
        padded = np.zeros((len(self.bits) // _BLOCK + 1) * _BLOCK, np.uint8)
        padded[: len(self.bits)] = self._bytes
        return padded.reshape(-1, _BLOCK)

    @cached_property
    def _before(self) -> Numbers:
        """Selected records before each block, and in all."""
        counts = _COUNTS[self._blocks].sum(axis=1, dtype=np.int64)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def _checked(self, values: npt.NDArray[Any], end: int, what: str) -> Numbers:
        given = np.asarray(values, np.int64)
        if given.size and not 0 <= int(given.min()) <= int(given.max()) < end:
            raise DataError(
                f"Numbers {given.min()} to {given.max()} were asked for; there are {self.of} records, {self.count} of "
                f"them selected, and {what} from 0 to {end - 1} are possible."
            )
        return given
