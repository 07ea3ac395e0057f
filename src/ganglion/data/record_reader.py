"""Records of fixed length read from files one by one, for files that are too large to be mapped within a budget.

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
from ganglion.data.columns import Array


@dataclass(frozen=True)
class StoredFile:
    """A file of columns.

    Attributes:
        path: of the file.
        offsets: byte at which the values of each column of fixed length begin.
    """

    path: Path
    offsets: Mapping[str, int]


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
        holders = np.searchsorted(self._starts[1:-1], records, side="right")
        runs = np.flatnonzero((np.diff(records) != 1) | (np.diff(holders) != 0)) + 1
        begins = np.concatenate([[0], runs, [len(records)]]).tolist()
        origins = np.array([file.offsets[name] for file in self._files])[holders]
        places = (origins + (records - self._starts[holders]) * size).tolist()
        for begin, end in pairwise(begins):
            holder = int(holders[begin])
            target = memory[begin * size : end * size]
            place = places[begin]
            while target:
                count = os.preadv(self._descriptors[holder], [target], place)
                if count == 0:
                    raise DataError(f"{self._files[holder].path} ends before byte {place}; it was longer when opened.")
                target, place = target[count:], place + count


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
