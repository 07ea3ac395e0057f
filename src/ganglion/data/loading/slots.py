"""Memory that several processes share, in slots, for batches that one process makes and another one uses.

The memory has no name in any file system, so that nothing is left behind however the processes end.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from ganglion.data.dataset.buffers import ALIGNMENT, Memory, address, padded
from ganglion.data.records.columns import Array


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """Where an array is in a slot.

    Attributes:
        offset: of its first byte.
        dtype: NumPy name of its values.
        shape: of the array.
    """

    offset: int
    dtype: str
    shape: tuple[int, ...]


def anonymous_file(size: int) -> int:
    """A descriptor of an open file of `size` zeros that lies in memory, or at least has no name."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("ganglion-batches", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, size)
    return descriptor


def map_slots(descriptor: int, size: int, count: int) -> list[Memory]:
    """The slots of a file of `count` slots of `size` bytes each."""
    shared = mmap.mmap(descriptor, size * count)
    return [np.frombuffer(shared, np.uint8, size, number * size) for number in range(count)]


def place(columns: Mapping[str, Array], slot: Memory) -> tuple[dict[str, Placed], dict[str, Array]]:
    """Put columns into a slot.

    Returns:
        Where each is, and those for which there was no room, as they are.
    """
    placed: dict[str, Placed] = {}
    rest: dict[str, Array] = {}
    begin, origin = 0, address(slot)
    for name, column in columns.items():
        offset = address(column) - origin
        if not (0 <= offset < len(slot) and column.flags.c_contiguous):  # else it was made there
            offset = begin
            if offset + column.nbytes > len(slot):
                rest[name] = column
                continue
            taken(slot, Placed(offset, column.dtype.name, column.shape))[...] = column
        placed[name] = Placed(offset, column.dtype.name, column.shape)
        begin = max(begin, padded(offset + column.nbytes))
    return placed, rest


def taken(slot: Memory, where: Placed) -> Array:
    """The array at a place in a slot; a view."""
    dtype: np.dtype[Any] = np.dtype(where.dtype)
    size = dtype.itemsize * int(np.prod(where.shape, dtype=np.int64))
    return slot[where.offset : where.offset + size].view(dtype).reshape(where.shape)


class Slots:
    """The slots, as the process sees them that uses what is in them.

    A slot is free again when it was given back and no array refers to it any more.

    Attributes:
        size: bytes of a slot.
        count: number of slots.
        descriptor: of the file, for processes that fill slots.

    Args:
        size: bytes of a slot, about.
        count: number of slots.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size = -(-max(1, size) // mmap.PAGESIZE) * mmap.PAGESIZE
        assert self.size % ALIGNMENT == 0, "pages are aligned"
        self.count = count
        self.descriptor = anonymous_file(self.size * count)
        self._slots = map_slots(self.descriptor, self.size, count)
        self._lent: set[int] = set()
        self._lock = threading.Lock()

    def lend(self) -> int:
        """The number of a free slot, which is not handed out again before it is given back.

        Raises:
            LookupError: there is none.
        """
        with self._lock:
            free = self._free()
            if not free:
                raise LookupError("no slot is free")
            self._lent.add(free[-1])
            return free[-1]

    def give_back(self, number: int) -> None:
        """Take a slot back; while arrays refer to it, it is not free."""
        with self._lock:
            self._lent.discard(number)

    def views(self, number: int, placed: Mapping[str, Placed], spare: int) -> dict[str, Array]:
        """What is in a slot: views, or copies where fewer than `spare` other slots would be left for further work."""
        with self._lock:
            scarce = len(self._free()) < spare
            found = {name: taken(self._slots[number], where) for name, where in placed.items()}
        return {name: column.copy() for name, column in found.items()} if scarce else found

    def close(self) -> None:
        """Close the file; arrays that refer to slots stay what they are."""
        os.close(self.descriptor)
        self._slots.clear()

    def _free(self) -> list[int]:
        return [
            number
            for number in range(len(self._slots))
            # one reference is the list's, one the argument's of getrefcount itself
            if number not in self._lent and sys.getrefcount(self._slots[number]) == 2
        ]
