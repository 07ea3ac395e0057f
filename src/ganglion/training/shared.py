"""The collective of processes on one host: vectors and result lie in memory that all of them see.

Nothing is copied. Each process sums one segment of all vectors and writes it to the result; two short messages over the
mesh say that the vectors are complete and that the result is. A process writes to nothing but its own vectors and its
own segment of a result that was made for this roster, so one that was given up cannot disturb those that go on without
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from ganglion.core import faults
from ganglion.training.collective import Divisor, Reduced
from ganglion.training.memory import Slots
from ganglion.training.mesh import Mesh
from ganglion.training.summation import OrderedSum, segments
from ganglion.training.tree import Node, partition


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
        self._segment = segments(slots.length, self.world)[self.rank]
        self._sums: dict[tuple[range, ...], tuple[OrderedSum, list[torch.Tensor]]] = {}

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Wait until all vectors are complete, sum one segment, wait until all segments are."""
        ordered, vectors = self._sum(tuple(spans))
        notes = self._mesh.exchange(note)
        faults.point("training.in_reduce", disconnect=self._mesh.disconnect)
        finite = ordered.into(self.result[self._segment], vectors, divisor(notes))
        return Reduced(notes, all(flag == b"\1" for flag in self._mesh.exchange(b"\1" if finite else b"\0")))

    def gather(self, value: bytes) -> list[bytes]:
        """Exchange messages."""
        return self._mesh.exchange(value)

    def close(self) -> None:
        """End the links."""
        self._mesh.close()

    def _map(self, rank: int, like: Slots, count: int | None = None) -> Slots:
        return Slots(count or like.count, like.length, like.dtype, self._mesh.descriptor(rank))

    def _sum(self, spans: tuple[range, ...]) -> tuple[OrderedSum, list[torch.Tensor]]:
        """The sum for a mapping, and this process's segment of all vectors that go into it."""
        if spans not in self._sums:
            offered = partition(spans, self._logical)
            vectors = [self._vectors[rank][slot] for rank, parts in enumerate(offered) for slot in range(len(parts))]
            parts: list[Node] = list(chain.from_iterable(offered))
            ordered = OrderedSum(parts, self._logical, self.result.dtype)
            self._sums = {spans: (ordered, [vector[self._segment] for vector in vectors])}
        return self._sums[spans]
