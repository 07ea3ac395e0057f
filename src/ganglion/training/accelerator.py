"""The collective of processes whose vectors lie on accelerators: NCCL's transport, and our own order of sums.

NCCL adds up in the order of its rings and trees, which depends on the number of processes. So it only moves bytes here:
an all-to-all gives each process one segment of all vectors, the process sums it along the tree on its device, an
all-gather gives the sums to everyone. That moves as much as a ring does, 2 (W - 1) / W of a vector where each process
has one.

Notes go over the mesh, before anything is moved; so an operation begins only when everybody takes part. It is looked at
until it is over; when somebody is gone or the membership has changed it is aborted, as is done by NCCL within
milliseconds. Gloo, which stands in for NCCL where vectors lie on a CPU, cannot abort an operation: it is left to
itself, and ends when the links of its group break or its time is over.

NCCL's side has been written after its documentation and run on no accelerator yet; what tests run is the same code with
gloo, on CPUs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, Protocol

import torch
import torch.distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not in its __all__

from ganglion.core import faults
from ganglion.training.collective import Complete, Divisor, Reduced
from ganglion.training.memory import DeviceSlots
from ganglion.training.mesh import DisruptedError, Mesh
from ganglion.training.summation import OrderedSum, divide
from ganglion.training.tree import Node, partition

TIMEOUT = 20.0
"""Seconds after which an operation fails, if nobody has noticed before that one of the processes is stuck."""

_GRAIN = 16
"""Segments are multiples of this many numbers."""

_BLOCK = 2**24
"""Numbers that a device sums at a time: starting a kernel costs more than leaving a cache does."""

_APART = 1e-4
"""Seconds between two looks at an operation."""


class Work(Protocol):
    """An operation that is under way."""

    def is_completed(self) -> bool:
        """Whether it is over."""
        ...

    def wait(self) -> bool:
        """Have what follows on this device see its result; raises `RuntimeError` if it failed."""
        ...


class Transport(Protocol):
    """What is used of a backend of `torch.distributed`."""

    def alltoall_base(
        self, output: torch.Tensor, input: torch.Tensor, output_split_sizes: list[int], input_split_sizes: list[int]
    ) -> Work:
        """Give each process its part of `input`, and get one from each."""
        ...

    def _allgather_base(self, output: torch.Tensor, input: torch.Tensor) -> Work: ...

    def abort(self) -> None:
        """End what is under way."""
        ...


class AcceleratorCollective:
    """Processes with one device each.

    Args:
        mesh: their links.
        slots: the vectors of this process.
        logical: number of logical workers.

    Raises:
        DisruptedError: the processes could not be connected.
    """

    def __init__(self, mesh: Mesh, slots: DeviceSlots, *, logical: int) -> None:
        self.rank, self.world = mesh.rank, mesh.world
        self._mesh = mesh
        self._slots = slots
        self._logical = logical
        self._size = max(1, -(-slots.length // (self.world * _GRAIN))) * _GRAIN
        self._gathered = self._empty(self.world, self._size)
        self._sum = self._empty(self._size)
        self._layout: _Layout | None = None
        self.result = self._gathered.reshape(-1)[: slots.length]
        self._transport = _connect(mesh, slots.device)

    def overlap(self, spans: Sequence[range]) -> Complete | None:
        """Everything is moved at once, when it is complete."""
        return None

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Scatter the segments, sum one of them, gather the results."""
        if self._layout is None or self._layout.spans != tuple(spans):
            self._layout = _Layout(spans, self._size, rank=self.rank, logical=self._logical, like=self._sum)
        layout = self._layout
        notes = self._mesh.exchange(note)
        layout.pack([self._slots[slot] for slot in range(layout.parts[self.rank])])
        self._finish(
            self._transport.alltoall_base(layout.received, layout.sent.reshape(-1), layout.incoming, layout.outgoing)
        )
        faults.point("training.in_reduce", disconnect=self._mesh.disconnect)
        layout.ordered.add(self._sum, list(layout.received.reshape(-1, self._size)))
        self._finish(self._transport._allgather_base(self._gathered.reshape(-1), self._sum))
        finite = divide(self.result, divisor(notes), block=_BLOCK)
        # Who leaves after its part must not be taken for lost by those who still wait for theirs.
        return Reduced(notes, self._mesh.agree(finite, range(self.world)))

    def gather(self, value: bytes) -> list[bytes]:
        """Exchange messages."""
        return self._mesh.exchange(value)

    def close(self) -> None:
        """Leave the group and end the links."""
        # Its end may have to wait for operations of its own; so nobody waits for that, and no reference is kept here.
        held = [self._transport]
        del self._transport
        threading.Thread(target=_end, args=[held], name="ganglion-abandoned-group", daemon=True).start()
        self._mesh.close()

    def _finish(self, work: Work) -> None:
        """Wait for an operation, unless it has become void."""
        while not work.is_completed():
            self._mesh.look()
            time.sleep(_APART)
        try:
            work.wait()
        except RuntimeError as error:
            raise DisruptedError(f"The processes could not exchange their vectors: {error}.") from error

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self._slots.dtype, device=self._slots.device)


class _Layout:
    """What is moved where for a mapping.

    Attributes:
        spans: the mapping.
        parts: how many vectors each process has, by rank.
        ordered: the sum.
        sent: the vectors of this process by segment, shape [world, parts, size].
        received: one segment of all vectors, from left to right, as one row of numbers.
        outgoing: how many numbers each process gets.
        incoming: how many numbers each process gives.
    """

    def __init__(self, spans: Sequence[range], size: int, *, rank: int, logical: int, like: torch.Tensor) -> None:
        offered = partition(spans, logical)
        nodes: list[Node] = list(chain.from_iterable(offered))
        self.spans = tuple(spans)
        self.parts = [len(parts) for parts in offered]
        self.ordered = OrderedSum(nodes, logical, like.dtype, device=like.device, block=min(size, _BLOCK))
        self.sent = like.new_zeros(len(spans), self.parts[rank], size)
        self.received = like.new_empty(len(nodes) * size)
        self.outgoing = [self.parts[rank] * size] * len(spans)
        self.incoming = [parts * size for parts in self.parts]

    def pack(self, vectors: Sequence[torch.Tensor]) -> None:
        """Lay the vectors of this process out by segment; what is beyond their end stays zero."""
        size = self.sent.shape[-1]
        for part, vector in enumerate(vectors):
            for rank, segment in enumerate(torch.split(vector, size)):
                self.sent[rank, part, : len(segment)].copy_(segment)


def _connect(mesh: Mesh, device: torch.device) -> Transport:
    """Make a group of the processes of a mesh; rank 0 offers the store through which it is made.

    It belongs to the mesh alone: nothing is registered with `torch.distributed`, where there can be one group at a
    time, and the group of the next roster does not wait until this one has gone.
    """
    limit = timedelta(seconds=TIMEOUT)
    try:
        if mesh.rank == 0:
            store = TCPStore(mesh.address, 0, is_master=True, wait_for_workers=False, timeout=limit)
            mesh.send(mesh.peers, f"{mesh.address} {store.port}".encode())
        else:
            host, port = mesh.receive([0])[0].decode().split()
            store = TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=limit)
        return _group(PrefixStore("vectors", store), mesh, device, limit)
    except RuntimeError as error:
        raise DisruptedError(f"The processes could not be connected: {error}.") from error


def _group(store: PrefixStore, mesh: Mesh, device: torch.device, limit: timedelta) -> Transport:
    backends: Any = torch.distributed  # whose stubs leave out most of what backends can do
    if device.type == "cuda":
        options = backends.ProcessGroupNCCL.Options()
        options._timeout = limit
        nccl: Transport = backends.ProcessGroupNCCL(store, mesh.rank, mesh.world, options)
        return nccl
    options = backends.ProcessGroupGloo._Options()
    options._devices = [backends.ProcessGroupGloo.create_device(hostname=mesh.address)]
    options._timeout = limit
    gloo: Transport = backends.ProcessGroupGloo(store, mesh.rank, mesh.world, options)
    return gloo


def _end(held: list[Transport]) -> None:
    """End the only group in a list, and what is under way in it."""
    held.pop().abort()
