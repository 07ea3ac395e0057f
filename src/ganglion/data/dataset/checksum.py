"""Checksums of a file, block by block, so that a flipped bit is found and it is known about where it is.

CRC-32C (G. Castagnoli et al., "Optimization of Cyclic Redundancy-Check Codes with 24 and 32 Parity Bits", IEEE
Transactions on Communications 41, 1993) finds every single flipped bit and every burst of up to 32 in a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import IntegrityError

BLOCK = 2**16
"""Bytes of a block; the last of a file may have fewer."""

_READ = 16 * BLOCK
_LITTLE = np.dtype("<u4")


class BlockChecksums:
    """Checksums of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, data: memoryview) -> None:
        """Take in what comes next."""
        values = np.frombuffer(data, np.uint8)
        while len(values):
            head, values = values[: BLOCK - self._filled], values[BLOCK - self._filled :]
            self._crc = google_crc32c.extend(self._crc, head)
            self._filled += len(head)
            if self._filled == BLOCK:
                self._done.append(self._crc)
                self._crc = self._filled = 0

    def encoded(self) -> bytes:
        """The checksums of all blocks, 4 little-endian bytes each."""
        return np.array([*self._done, self._crc] if self._filled else self._done, _LITTLE).tobytes()


def count_blocks(size: int) -> int:
    """Number of blocks of `size` bytes."""
    return -(-size // BLOCK)


def damaged_blocks(path: Path, size: int, checksums: bytes) -> Iterator[int]:
    """Read a file through and find the blocks that are not what was written.

    Args:
        path: of the file.
        size: bytes that it should have.
        checksums: as `BlockChecksums.encoded` gave them.

    Returns:
        Numbers of damaged blocks, in order.

    Raises:
        IntegrityError: the file has another size.
    """
    if path.stat().st_size != size or len(checksums) != 4 * count_blocks(size):
        raise IntegrityError(f"{path} has {path.stat().st_size} bytes; {size} were written. Prepare the dataset again.")
    expected: npt.NDArray[np.uint32] = np.frombuffer(checksums, _LITTLE)
    buffer = np.empty(_READ, np.uint8)
    number = 0
    with path.open("rb", buffering=0) as file:
        for start in range(0, size, _READ):
            length = min(_READ, size - start)
            filled = 0
            while filled < length:
                filled += file.readinto(buffer[filled:length].data) or _cut_short(path)
            for begin in range(0, length, BLOCK):
                if google_crc32c.extend(0, buffer[begin : min(begin + BLOCK, length)]) != expected[number]:
                    yield number
                number += 1


def _cut_short(path: Path) -> int:
    raise IntegrityError(f"{path} became shorter while it was read. Prepare the dataset again.")
