"""The randomness that belongs to each logical worker: a pure function that knows nothing of processes."""

from __future__ import annotations

import hashlib


def random_key(seed: int, *place: int | str) -> int:
    """A seed of 63 bits for one place in a training, such as (step, logical worker).

    The same arguments give the same key on every machine; different ones give independent keys (a BLAKE2b digest).
    """
    text = repr((seed, *place)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1
