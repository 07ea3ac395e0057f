"""The collective of processes on one host: vectors and result lie in memory that all of them see.

Nothing is copied. Each process that is fast enough sums one segment of all vectors and writes it to the result; two
short messages over the mesh say that the vectors are complete and that the segment is. A process writes to nothing but
its own vectors and its own segment of a result that was made for this roster, so one that was given up cannot disturb
those that go on without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch

from ganglion.core import faults
from ganglion.training.collective import Complete, Divisor, Reduced
from ganglion.training.mapping import adders
from ganglion.training.memory import Slots
from ganglion.training.mesh import Mesh
from ganglion.training.summation import OrderedSum, shares
from ganglion.training.tree import Node, partition


class _Share(NamedTuple):
    """The sum for a mapping, the segment that this process adds up, and that segment of all vectors that go into it."""

    ordered: OrderedSum
    segment: slice
    vectors: list[torch.Tensor]


class SharedMemoryCollective:
    """Processes on one host.

    Args:
        mesh: their links, all of them Unix sockets.
        slots: the vectors of this process.
        logical: number of logical workers.
    """

    def __init__(self, mesh: Mesh, slots: Slots, *, logical: int) -> None:
        self.rank, self.world = mesh.rank, mesh.world
        self._mesh = mesh
        self._logical = logical
        made = Slots(1, slots.length, slots.dtype) if mesh.rank == 0 else None
        mesh.send(mesh.peers, b"", [slots.memory.descriptor, *([made.memory.descriptor] if made else [])])
        mesh.receive(mesh.peers)
        self._vectors = {rank: slots if rank == mesh.rank else self._map(rank, slots) for rank in range(self.world)}
        result = made or self._map(0, slots, count=1)
        for mapped in (*self._vectors.values(), result):
            if mapped is not slots:
                mapped.memory.close()
        self.result = result[0]
        self._sums: dict[tuple[range, ...], _Share] = {}

    def overlap(self, spans: Sequence[range]) -> Complete | None:
        """Nothing is transferred: sums take a small part of the time that the gradients take."""
        return None

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Wait until all vectors are complete, sum one segment, wait until all segments are."""
        share = self._share(tuple(spans))
        notes = self._mesh.exchange(note)
        faults.point("training.in_reduce", disconnect=self._mesh.disconnect)
        finite = share.ordered.into(self.result[share.segment], share.vectors, divisor(notes))
        return Reduced(notes, self._mesh.agree(finite, adders(spans)))

    def gather(self, value: bytes) -> list[bytes]:
        """Exchange messages."""
        return self._mesh.exchange(value)

    def close(self) -> None:
        """End the links."""
        self._mesh.close()

    def _map(self, rank: int, like: Slots, count: int | None = None) -> Slots:
        return Slots(count or like.count, like.length, like.dtype, self._mesh.descriptor(rank))

    def _share(self, spans: tuple[range, ...]) -> _Share:
        """What this process adds up for a mapping."""
        if spans not in self._sums:
            offered = partition(spans, self._logical)
            vectors = [self._vectors[rank][slot] for rank, parts in enumerate(offered) for slot in range(len(parts))]
            parts: list[Node] = list(chain.from_iterable(offered))
            ordered = OrderedSum(parts, self._logical, self.result.dtype)
            segment = shares(self.result.numel(), spans)[self.rank]
            self._sums = {spans: _Share(ordered, segment, [vector[segment] for vector in vectors])}
        return self._sums[spans]
