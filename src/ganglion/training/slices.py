"""Logical workers: which of them a process computes, and the randomness that belongs to each.

Results depend on the logical workers alone, so both are pure functions that know nothing of processes.
"""

from __future__ import annotations

import hashlib

from ganglion.core.errors import ConfigurationError


def owned(rank: int, world: int, logical: int) -> range:
    """The logical workers that a process computes: one contiguous range; sizes differ by at most one.

    Args:
        rank: of the process, from 0.
        world: number of processes.
        logical: number of logical workers.

    Raises:
        ConfigurationError: there are fewer logical workers than processes.
    """
    if logical < world:
        raise ConfigurationError(
            f"{logical} logical workers cannot occupy {world} workers; use at most as many workers as logical workers."
        )
    return range(rank * logical // world, (rank + 1) * logical // world)


def random_key(seed: int, *place: int | str) -> int:
    """A seed of 63 bits for one place in a training, such as (step, logical worker).

    The same arguments give the same key on every machine; different ones give independent keys (a BLAKE2b digest).
    """
    text = repr((seed, *place)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1
