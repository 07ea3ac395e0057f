"""CRC-32C (Castagnoli) of every eight bytes of a buffer, for finding checked lengths wherever they are.

The bytes of a message go through one table each (M. Kounavis, F. Berry, "Novel Table Lookup-Based Algorithms for
High-Performance CRC Generation", IEEE Transactions on Computers 57, 2008), here for many messages at once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_WINDOW = 8
_Words = npt.NDArray[np.uint32]


def checksums_of_windows(data: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> _Words:
    """The CRC-32C of the eight bytes at each of `places` in `data`; shape `(places,)`."""
    checksums = np.full(len(places), 0xFFFFFFFF, np.uint32)
    for byte, table in enumerate(_tables()):
        values = data[places + byte]
        checksums ^= table[values if byte >= 4 else values ^ np.uint8(0xFF)]  # the register begins as ones
    return checksums


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
