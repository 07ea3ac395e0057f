"""How the allocator of the C library treats the memory that passes through a model free."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, as malloc.h of the GNU C library numbers them."""

_LARGEST = 2**30
"""Bytes from which on a piece of memory is got from the system and given back by itself; `mallopt` takes an int."""

_EVERYWHERE = 2**25
"""The same where a version of the library takes no more than its documented limit."""


def keep_memory() -> bool:
    """Have this process keep memory that was freed, as it will be wanted again in the next step.

    By default the GNU C library gets a large piece, such as the activations of a layer, from the system and gives it
    back after use, or gives the end of the heap back. The system then clears each page anew when it is touched: with
    slices of 64 images that takes as long as the computation of the reference model itself. What is kept is not more
    than a step needs at its peak, and no result depends on it.

    Returns:
        Whether the C library knows these parameters; others (macOS, musl) are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return any(mallopt(_MMAP_THRESHOLD, threshold) for threshold in (_LARGEST, _EVERYWHERE)) and kept
