"""Bytes that grow at their end: in memory, and in a file without a name once memory has to be given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from ganglion.data.records.columns import Array

_READ = 2**20


class Spool:
    """One growing buffer.

    Attributes:
        size: bytes in all.
        held: bytes of them in memory.

    Args:
        folder: where the file lies, if one is needed; it has no name, so that nothing of it outlives the process.
    """

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self.held = 0
        self._folder = folder
        self._parts: list[memoryview] = []
        self._file: IO[bytes] | None = None

    def append(self, values: Array) -> None:
        """Add the bytes of an array, which must not change afterwards."""
        if values.nbytes:
            self._parts.append(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            self.size += values.nbytes
            self.held += values.nbytes

    def spill(self) -> None:
        """Move what is in memory to the file."""
        if not self._parts:
            return
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  # closed with the spool
        for part in self._parts:
            while part:
                part = part[self._file.write(part) :]
        self._parts.clear()
        self.held = 0

    def parts(self) -> Iterator[memoryview]:
        """All bytes, in order, a piece at a time."""
        if self._file is not None:
            self._file.seek(0)
            while read := self._file.read(_READ):
                yield memoryview(read)
        yield from self._parts

    def close(self) -> None:
        """Give file and memory back."""
        self._parts.clear()
        if self._file is not None:
            self._file.close()
