"""Memory for batches: aligned, and used again as soon as nobody looks at it any more.

Fresh memory is slow: the kernel fills each page with zeros when it is touched first, which for a batch of images takes
about as long as making it. A pool hands the memory of batches out again once the last view of them is gone, which the
reference count of the array beneath them tells. So a batch may be kept as long as one likes, and none that is kept is
ever written to.
"""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.data.records.columns import Array
from ganglion.data.records.schema import Schema

ALIGNMENT = 64
"""Arrays begin at a multiple of so many bytes: a line of the cache, and the widest vector register."""

Memory = npt.NDArray[np.uint8]


def aligned(size: int) -> Memory:
    """New memory of `size` bytes that begins at a multiple of `ALIGNMENT`."""
    memory: Memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -address(memory) % ALIGNMENT
    return memory[begin : begin + size]


def padded(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def address(array: Array) -> int:
    """Where the memory of an array begins."""
    found: int = array.__array_interface__["data"][0]  # several times as fast as `array.ctypes.data`
    return found


def size_of(schema: Schema, records: int) -> int:
    """Bytes that `lay_out` needs for `records` records; every field is of fixed length."""
    return sum(padded(field.record_bytes * records) for field in schema)


def lay_out(memory: Memory, schema: Schema, records: int) -> dict[str, Array]:
    """Arrays of shape `(records, *field.shape)` for every field, one behind the other in `memory`, each aligned."""
    return {name: np.ndarray(shape, dtype, memory, begin) for name, dtype, shape, begin in _places(schema, records)}


@lru_cache(maxsize=256)
def _places(schema: Schema, records: int) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
    places, begin = [], 0
    for field in schema:
        places.append((field.name, np.dtype(field.dtype), (records, *field.shape), begin))
        begin += padded(field.record_bytes * records)
    return places


class BufferPool:
    """Buffers of at most one size each, handed out again when no array refers to their memory any more.

    It may be used by several threads.

    Attributes:
        made: buffers made so far, for tests and diagnosis.

    Args:
        kept: bytes of unused buffers that are kept, at most.
    """

    def __init__(self, kept: int) -> None:
        self.made = 0
        self._kept = kept
        self._buffers: list[Memory] = []  # most recently handed out last; all own their memory
        self._lock = threading.Lock()

    def take(self, size: int) -> Memory:
        """Aligned memory of `size` bytes, its content undefined; it is the caller's until its last view is gone."""
        with self._lock:
            best = None
            for number in range(len(self._buffers) - 1, -1, -1):  # the latest is the likeliest to be in the cache
                # One reference is the list's, one the argument's of getrefcount itself.
                if sys.getrefcount(self._buffers[number]) == 2 and len(self._buffers[number]) >= size + ALIGNMENT:
                    best = self._buffers.pop(number)
                    break
            if best is None:
                self._forget(size)
                best = np.empty(size + ALIGNMENT, np.uint8)
                self.made += 1
            self._buffers.append(best)
            begin = -address(best) % ALIGNMENT
            return best[begin : begin + size]

    def clear(self) -> None:
        """Forget all buffers; those in use stay what they are for their users."""
        with self._lock:
            self._buffers.clear()

    def _forget(self, size: int) -> None:
        """Drop buffers that are in use elsewhere or too small, so that the rest and the new one are within bounds."""
        unused = [buffer for buffer in self._buffers if sys.getrefcount(buffer) == 3]  # the loop variable's is one more
        self._buffers = [buffer for buffer in self._buffers if sys.getrefcount(buffer) > 3]
        room = self._kept - size
        for buffer in reversed(unused):
            if len(buffer) <= room:
                self._buffers.insert(0, buffer)
                room -= len(buffer)
