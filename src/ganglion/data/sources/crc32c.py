"""CRC-32C (Castagnoli) for many short messages at once: for finding checked lengths, and for joining checksums.

The bytes of a message go through one table each (M. Kounavis, F. Berry, "Novel Table Lookup-Based Algorithms for
High-Performance CRC Generation", IEEE Transactions on Computers 57, 2008), here for many messages at once. Zeros that
follow change a register linearly, and two to the power of n of them are one such change after the other, twice as many
each time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_WINDOW = 8
_MOST_ZEROS = 16  # bits of their number
_Words = npt.NDArray[np.uint32]


def checksums_of_windows(data: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> _Words:
    """The CRC-32C of the eight bytes at each of `places` in `data`; shape `(places,)`."""
    checksums = np.full(len(places), 0xFFFFFFFF, np.uint32)
    for byte, table in enumerate(_tables()):
        values = data[places + byte]
        checksums ^= table[values if byte >= 4 else values ^ np.uint8(0xFF)]  # the register begins as ones
    return checksums


def shifted(registers: _Words, zeros: npt.NDArray[np.int64]) -> _Words:
    """What registers hold after so many further bytes that are zero.

    Args:
        registers: shape `(registers,)`.
        zeros: how many bytes for each, less than 2**16; shape `(registers,)`.
    """
    found = registers.copy()
    for bit, tables in enumerate(_doublings()):
        longer = np.flatnonzero(zeros & 1 << bit)
        if len(longer):
            found[longer] = _mapped(found[longer], tables)
    return found


def _mapped(registers: _Words, tables: _Words) -> _Words:
    found: _Words = tables[0][registers & np.uint32(0xFF)]
    for byte in range(1, 4):
        found ^= tables[byte][registers >> np.uint32(8 * byte) & np.uint32(0xFF)]
    return found


@lru_cache(1)
def _doublings() -> tuple[_Words, ...]:
    """By n, what two to the power of n zeros make of each byte of a register; shape `(4, 256)` each."""
    bytes_ = np.arange(256, dtype=np.uint32)
    alone = np.stack([bytes_ << np.uint32(8 * byte) for byte in range(4)])  # registers with one byte only
    first = (alone >> np.uint32(8)) ^ _tables()[-1][alone & np.uint32(0xFF)]
    found = [first]
    while len(found) < _MOST_ZEROS:
        found.append(np.stack([_mapped(row, found[-1]) for row in found[-1]]))
    return tuple(found)


@lru_cache(1)
def _tables() -> tuple[_Words, ...]:
    """What each byte of a message of eight adds to its checksum, the first byte first."""
    table = np.arange(256, dtype=np.uint32)
    for _bit in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0))
    tables = [table]
    while len(tables) < _WINDOW:
        tables.append((tables[-1] >> np.uint32(8)) ^ table[tables[-1] & np.uint32(0xFF)])
    return tuple(reversed(tables))
