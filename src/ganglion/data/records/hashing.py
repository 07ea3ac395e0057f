"""Hashes of values, and who of several workers owns a hash: the same on every machine, in every run.

Ownership is by rendezvous (D. Thaler, C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM
Transactions on Networking 6, 1998; with weights: C. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables",
SPAA 2005): every worker draws a number for the hash, and the best one owns it. So a worker that is added takes its
share from all others, and nothing moves between those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Column

Hashes = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE = 2**16


def hash_values(column: Column) -> Hashes:
    """A hash of 64 bits for each value of a column.

    Equal integers have equal hashes whatever their width; text and bytes are hashed by their bytes.

    Args:
        column: single values: integers, booleans, floating-point numbers (by their bits as float64; -0 as 0, every
            NaN as the same), text or bytes.

    Raises:
        DataError: records have several values each.
    """
    if isinstance(column, np.ndarray):
        if column.ndim != 1 or column.dtype.kind not in "biuf":
            raise DataError(
                f"A key was given as {column.dtype} of shape {column.shape}; one number or text to a record is needed."
            )
        if column.dtype.kind == "f":
            values = column.astype(np.float64) + 0.0
            values[np.isnan(values)] = np.nan
            return mix_hashes(values.view(np.uint64))
        return mix_hashes(column.astype(np.int64 if column.dtype.kind == "i" else np.uint64).view(np.uint64))
    if str(column.type).startswith("list<"):
        raise DataError(f"A key was given as {column.type}; one number or text to a record is needed.")
    encoded = column.dictionary_encode()
    distinct = np.array([_hash(value) for value in encoded.dictionary.to_pylist()], np.uint64)
    hashes: Hashes = distinct[encoded.indices.to_numpy()]
    return hashes


def owners(hashes: Hashes, weights: Sequence[float]) -> npt.NDArray[np.int64]:
    """Which worker owns each hash.

    Args:
        hashes: as `hash_values` gives them.
        weights: one positive number for each worker, its share.

    Returns:
        Numbers of workers, shape of `hashes`.
    """
    found = np.empty(len(hashes), np.int64)
    seeds = mix_hashes(np.arange(1, len(weights) + 1, dtype=np.uint64))
    shares = np.asarray(weights, np.float64)
    for start in range(0, len(hashes), _AT_ONCE):
        words = mix_hashes(hashes[start : start + _AT_ONCE, None] ^ seeds)
        drawn = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        found[start : start + _AT_ONCE] = (-np.log(drawn) / shares).argmin(axis=1)
    return found


def mix_hashes(words: npt.NDArray[Any]) -> Hashes:
    """Other hashes from hashes: the mixing function of SplitMix64 (see `draw`), which loses nothing."""
    mixed: Hashes = words + _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _hash(value: str | bytes) -> int:
    data = value.encode() if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
