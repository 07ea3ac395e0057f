"""Randomness of records: a function of (seed, epoch, record), never of who asks or of what was asked before.

The generator is counter-based (J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): each value
is a mixing function of a key and a counter. The mixing is that of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast
Splittable Pseudorandom Number Generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
import struct

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.data.records.batch import Ids

_Words = npt.NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))


class Draw(msgspec.Struct, frozen=True):
    """What a random transform draws its numbers from.

    Attributes:
        seed: of the run.
        epoch: from 0; preparation, which happens once, is epoch 0.
    """

    seed: int = 0
    epoch: int = 0

    def bits(self, ids: Ids, purpose: str, values: int = 1) -> _Words:
        """Independent random words of 64 bits for each record.

        Args:
            ids: of the records, shape `(n,)`.
            purpose: what they are for; different purposes get independent words.
            values: how many for each record.

        Returns:
            Shape `(n, values)`.
        """
        key = hashlib.blake2b(purpose.encode(), digest_size=8, key=struct.pack("<QQ", self.seed, self.epoch)).digest()
        first = np.asarray(ids).astype(np.uint64)[:, None] * np.uint64(values)
        counters = np.add(first, np.arange(values, dtype=np.uint64), dtype=np.uint64)
        return _mixed((counters + np.frombuffer(key, "<u8").astype(np.uint64)) * _STEP)

    def uniform(self, ids: Ids, purpose: str, values: int = 1) -> npt.NDArray[np.float64]:
        """Independent numbers from 0 (inclusive) to 1 (exclusive) for each record; shape `(n, values)`."""
        return (self.bits(ids, purpose, values) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(words: _Words) -> _Words:
    for shift, factor in _MIX:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> np.uint64(31))
