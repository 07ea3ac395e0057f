"""Certificates: a short proof of which records were delivered, whatever their order and whoever delivered them.

Two mixing functions, independent of each other, turn the id of a record into 64 random-looking bits each (the finalizer
of SplitMix64, with different keys); a certificate is the number of records and the two sums modulo 2**64. Sums do not
depend on the order, and certificates of ranks, or of stretches of an epoch, are added up. If every record was delivered
exactly once, the certificate is that of the dataset. If not, it is the same with a probability of 2**-128, and never
where only the number is wrong. (It protects from mistakes; somebody who chooses ids on purpose can deceive it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.data.records.batch import Ids

_Words = npt.NDArray[np.uint64]
_KEYS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # of the golden ratio, and a prime
_MIX = (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))
_LAST = np.uint64(31)
_WORD = 2**64 - 1


class Certificate(msgspec.Struct, frozen=True):
    """What was delivered; plain data. Certificates are added with `+` and compared with `==`.

    Attributes:
        count: records.
        first: sum of the first mix of their ids, modulo 2**64.
        second: sum of the second mix.
    """

    count: int = 0
    first: int = 0
    second: int = 0

    @classmethod
    def of(cls, ids: Ids) -> Self:
        """The certificate of some records, given by their ids, of shape `(n,)`; one that comes twice counts twice."""
        return cls(ids.size, *(int(_mixed(ids, key).sum(dtype=np.uint64)) for key in _KEYS))

    @classmethod
    def of_each(cls, ids: Ids, ends: Sequence[int]) -> list[Self]:
        """Certificates of consecutive groups of records: those before the first end, from there to the second, ..."""
        bounds = np.concatenate([[0], np.asarray(ends, np.int64)])
        counts = np.diff(bounds)
        some = np.flatnonzero(counts)  # where nothing is summed, `reduceat` does not give 0
        sums = np.zeros((len(_KEYS), len(counts)), np.uint64)
        for number, key in enumerate(_KEYS):
            if some.size:  # unsigned words wrap around, as the sums do
                sums[number, some] = np.add.reduceat(_mixed(ids[: bounds[-1]], key), bounds[some])
        return [cls(*values) for values in zip(counts.tolist(), *sums.tolist(), strict=True)]

    def __add__(self, other: Certificate) -> Certificate:
        return Certificate(
            self.count + other.count, (self.first + other.first) & _WORD, (self.second + other.second) & _WORD
        )

    def __sub__(self, other: Certificate) -> Certificate:
        return Certificate(
            self.count - other.count, (self.first - other.first) & _WORD, (self.second - other.second) & _WORD
        )


def _mixed(ids: Ids, key: np.uint64) -> _Words:
    words: _Words = ids.astype(np.uint64)
    words += np.uint64(1)
    words *= key
    shifted = np.empty_like(words)  # one for all, which stays in the cache
    for shift, factor in _MIX:
        words ^= np.right_shift(words, shift, out=shifted)
        words *= factor
    words ^= np.right_shift(words, _LAST, out=shifted)
    return words
