"""Records read from files one by one, for files that are too large to be mapped within a budget.

A mapped file counts as memory of the process, page by page as they are touched, and current kernels map up to 2 MiB
for one touch. What is read instead passes through the kernel's cache alone, which costs a system call for each run of
neighbouring records.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.dataset.buffers import Memory
from ganglion.data.records.columns import Array


@dataclass(frozen=True)
class StoredFile:
    """A file of columns.

    Attributes:
        path: of the file.
        offsets: byte at which the buffers of each column begin: of one of fixed length the values; of another one,
            32-bit numbers that say where each record begins and the last one ends, and the values.
    """

    path: Path
    offsets: Mapping[str, tuple[int, ...]]


class RecordReader:
    """Reads records of some files; may be used by several threads.

    Args:
        files: in the order of the records.
        starts: number of the first record of each file, and of all records.
    """

    def __init__(self, files: Sequence[StoredFile], starts: npt.NDArray[np.int64]) -> None:
        self._files = files
        self._starts = starts
        self._descriptors: list[int] = []
        self._end = weakref.finalize(self, _close, self._descriptors)
        for file in files:
            self._descriptors.append(os.open(file.path, os.O_RDONLY | os.O_CLOEXEC))

    def into(self, name: str, records: npt.NDArray[np.integer[Any]], out: Array) -> None:
        """Read one column of some records.

        Args:
            name: of the column.
            records: of shape `(n,)`, within all records.
            out: contiguous, of shape `(n, ...)` and of the column's type.

        Raises:
            DataError: a file ends too early.
        """
        size = out.itemsize * int(np.prod(out.shape[1:], dtype=np.int64))
        memory = out.reshape(-1).view(np.uint8).data
        holders = self._holders(records)
        runs = np.flatnonzero((np.diff(records) != 1) | (np.diff(holders) != 0)) + 1
        begins = np.concatenate([[0], runs, [len(records)]]).tolist()
        places = (self._origins(name, 0)[holders] + (records - self._starts[holders]) * size).tolist()
        for begin, end in pairwise(begins):
            self._read(int(holders[begin]), places[begin], memory[begin * size : end * size])

    def variable(self, name: str, records: npt.NDArray[np.integer[Any]], size: int) -> tuple[Memory, Memory]:
        """Read one column of some records that differ in length.

        Args:
            name: of the column.
            records: as for `into`.
            size: bytes of one value.

        Returns:
            Where each record begins among the values, and the last one ends, as 32-bit numbers; and the values.

        Raises:
            DataError: as for `into`, or the records are too long to be held together.
        """
        holders = self._holders(records)
        found = np.empty((len(records), 2), np.int32)
        memory = found.reshape(-1).view(np.uint8).data
        places = (self._origins(name, 0)[holders] + (records - self._starts[holders]) * 4).tolist()
        for number, (holder, place) in enumerate(zip(holders.tolist(), places, strict=True)):
            self._read(holder, place, memory[8 * number : 8 * number + 8])
        lengths = (found[:, 1] - found[:, 0]).astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        if ends[-1] >= 2**31:
            raise DataError(
                f"{len(records)} records of {name!r} have {ends[-1]} values, and 2**31 can be held together; make the "
                "batch smaller."
            )
        values = np.empty(int(ends[-1]) * size, np.uint8)
        origins = (self._origins(name, 1)[holders] + found[:, 0].astype(np.int64) * size).tolist()
        bounds = (ends * size).tolist()
        for holder, place, bound in zip(holders.tolist(), origins, pairwise(bounds), strict=True):
            self._read(holder, place, values.data[slice(*bound)])
        return ends.astype(np.int32).view(np.uint8), values

    def _holders(self, records: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
        return np.searchsorted(self._starts[1:-1], records, side="right")

    def _origins(self, name: str, buffer: int) -> npt.NDArray[np.int64]:
        return np.array([file.offsets[name][buffer] for file in self._files], np.int64)

    def _read(self, holder: int, place: int, target: memoryview) -> None:
        while target:
            count = os.preadv(self._descriptors[holder], [target], place)
            if count == 0:
                raise DataError(f"{self._files[holder].path} ends before byte {place}; it was longer when opened.")
            target, place = target[count:], place + count


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
