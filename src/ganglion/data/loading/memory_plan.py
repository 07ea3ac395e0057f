"""How a loader divides the memory that it may take: between files that are mapped and batches that are made; pure."""

from __future__ import annotations

import msgspec

from ganglion.core.errors import DataError

_DEFAULT = 512 * 2**20
_PIECE = 2 * 2**20  # made at a time: enough to be worth handing over, little enough to stay in the cache
_PIECES = 8
_BATCHES = 4  # in the making, ready, in the consumer's hands, and kept in mind for the next


class MemoryPlan(msgspec.Struct, frozen=True):
    """Shares of a memory budget.

    Attributes:
        resident: bytes of mapped files that may stay in memory; `None` where all of them may.
        buffers: bytes for batches that are being made, are ready, or were handed out last.
    """

    resident: int | None
    buffers: int

    @classmethod
    def of(cls, memory: int, mapped: int, batch: int) -> MemoryPlan:
        """Divide a budget.

        All files are mapped where that leaves a quarter of the budget, and what the batches need; otherwise they may
        have half of it.

        Args:
            memory: the budget, in bytes.
            mapped: bytes of the files.
            batch: bytes that the largest batch takes while it is made.

        Raises:
            DataError: batches do not fit; the message says how much is needed.
        """
        needed = needed_memory(mapped, batch)
        if memory < needed:
            raise DataError(
                f"A batch takes {batch} bytes while it is made, and memory={memory} is too little for a few of them; "
                f"give memory={needed} at least, or make the batch smaller."
            )
        if mapped + max(_BATCHES * batch, memory - memory * 3 // 4) <= memory:
            return cls(None, memory - mapped)
        return cls(memory // 2, memory - memory // 2)

    @property
    def piece(self) -> int:
        """Bytes of batches that are made at a time, but for larger batches."""
        return min(_PIECE, self.buffers // _PIECES)

    def ahead(self, batch: int) -> int:
        """Bytes of work that may be done ahead: what is left beside the pieces in the consumer's hands."""
        return max(batch, self.buffers - 2 * max(batch, self.piece))


def needed_memory(mapped: int, batch: int) -> int:
    """The least budget for files of `mapped` bytes and batches of `batch` bytes; every larger one will do too."""
    everything = max(mapped + _BATCHES * batch, -(-mapped * 4 // 3) + 1)
    return min(2 * _BATCHES * batch, everything)


def default_memory(mapped: int, batch: int) -> int:
    """The budget where none was given: 512 MiB, or what is needed."""
    return max(_DEFAULT, needed_memory(mapped, batch))
