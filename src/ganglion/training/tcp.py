"""The collective of processes on several hosts.

Each process receives one segment of all vectors, sums it, and sends the result to all others. Where every process has
one vector that moves 2 (W - 1) / W of its length in each direction, which no all-reduce can undercut.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from ganglion.core import faults
from ganglion.training.collective import Divisor, Reduced
from ganglion.training.memory import Slots, bytes_of
from ganglion.training.mesh import Mesh
from ganglion.training.summation import OrderedSum, segments
from ganglion.training.tree import Node, partition


class TcpCollective:
    """Processes whose memory only the network connects.

    Args:
        mesh: their links.
        slots: the vectors of this process.
        logical: number of logical workers.
    """

    def __init__(self, mesh: Mesh, slots: Slots, *, logical: int) -> None:
        self.rank, self.world = mesh.rank, mesh.world
        self.result = torch.zeros(slots.length, dtype=slots.dtype)
        self._mesh = mesh
        self._slots = slots
        self._logical = logical
        self._segments = segments(slots.length, self.world)
        self._arrived = torch.empty(0, dtype=slots.dtype)

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Scatter the segments, sum one of them, gather the results."""
        offered = partition(spans, self._logical)
        mine = self._segments[self.rank]
        length = mine.stop - mine.start
        others = sum(len(parts) for rank, parts in enumerate(offered) if rank != self.rank)
        if self._arrived.numel() != others * length:
            self._arrived = torch.empty(others * length, dtype=self.result.dtype)
        rows = iter(self._arrived.reshape(others, length))
        vectors = {
            rank: [self._slots[slot][mine] if rank == self.rank else next(rows) for slot in range(len(parts))]
            for rank, parts in enumerate(offered)
        }
        own = [self._slots[slot] for slot in range(len(offered[self.rank]))]
        notes = self._mesh.exchange(note)
        self._mesh.transfer(
            {rank: [bytes_of(vector[self._segments[rank]]) for vector in own] for rank in self._mesh.peers},
            {rank: [bytes_of(vector) for vector in vectors[rank]] for rank in self._mesh.peers},
        )
        faults.point("training.in_reduce", disconnect=self._mesh.disconnect)
        parts: list[Node] = list(chain.from_iterable(offered))
        ordered = OrderedSum(parts, self._logical, self.result.dtype)
        finite = ordered.into(self.result[mine], list(chain.from_iterable(vectors.values())), divisor(notes))
        self._mesh.transfer(
            {rank: [bytes_of(self.result[mine])] for rank in self._mesh.peers},
            {rank: [bytes_of(self.result[self._segments[rank]])] for rank in self._mesh.peers},
        )
        return Reduced(notes, all(flag == b"\1" for flag in self._mesh.exchange(b"\1" if finite else b"\0")))

    def gather(self, value: bytes) -> list[bytes]:
        """Exchange messages."""
        return self._mesh.exchange(value)

    def close(self) -> None:
        """End the links."""
        self._mesh.close()
