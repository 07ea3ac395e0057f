"""The all-reduce of `torch.distributed`: for trainings that need not be exact, and to compare exact ones with."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch
import torch.distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its __all__

from ganglion.core.errors import ControlError
from ganglion.training.collective import Complete, Divisor, Reduced, is_finite
from ganglion.training.memory import Vectors
from ganglion.training.tree import partition


class GlooCollective:
    """Processes on CPUs, through torch's gloo; the order of its sums depends on their number.

    On one machine nothing listens beyond the loopback interface.

    Args:
        slots: the vectors of this process.
        store: where the processes meet.
        address: host on which they do.
        rank: of this process.
        world: number of processes, at least 2.
        logical: number of logical workers.
        timeout: seconds after which an operation fails that another process does not take part in.
    """

    def __init__(
        self,
        slots: Vectors,
        *,
        store: TCPStore,
        address: str,
        rank: int,
        world: int,
        logical: int,
        timeout: float = 600.0,
    ) -> None:
        self.rank = rank
        self.world = world
        self.result = slots[0]
        self._slots = slots
        self._logical = logical
        if (interface := _loopback_interface(address)) is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        limit = timedelta(seconds=timeout)
        with self._naming_the_peers("meet"):
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)

    def overlap(self, spans: Sequence[range]) -> Complete | None:
        """The sums begin when all gradients are complete."""
        return None

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Add up this process's vectors, then those of all processes."""
        parts = len(partition(spans, self._logical)[self.rank])
        if not parts:
            self.result.zero_()
        for slot in range(1, parts):
            self.result.add_(self._slots[slot])
        with self._naming_the_peers("add"):
            torch.distributed.all_reduce(self.result)
        notes = self.gather(note)
        self.result.div_(divisor(notes))
        return Reduced(notes, is_finite(self.result))

    def gather(self, value: bytes) -> list[bytes]:
        """Gather bytes, padded to the longest."""
        mine = torch.frombuffer(bytearray(value + b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self._naming_the_peers("gather"):
            torch.distributed.all_gather(sizes, torch.tensor([len(value)]))
            longest = int(max(sizes)) + 1
            everyone = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
            torch.distributed.all_gather(everyone, torch.nn.functional.pad(mine, (0, longest - len(mine))))
        return [data[: int(size)].numpy().tobytes() for data, size in zip(everyone, sizes, strict=True)]

    def close(self) -> None:
        """Leave the group."""
        torch.distributed.destroy_process_group()

    @contextmanager
    def _naming_the_peers(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:
            raise ControlError(
                f"Rank {self.rank} of {self.world} could not {operation}: another process of the training is gone or "
                f"cannot be reached ({error})."
            ) from error


def meet(address: str, port: int, *, rank: int, world: int, timeout: float = 600.0) -> TCPStore:
    """The store of a gang whose rank 0 is known to all.

    Args:
        address: host of rank 0.
        port: where it offers the store.
        rank: of this process.
        world: number of processes.
        timeout: seconds to wait for the others.

    Raises:
        ControlError: they could not be reached.
    """
    try:
        # Without a socket of ours torch would listen on every interface.
        server = socket.create_server((address, port)).detach() if rank == 0 else None
        limit = timedelta(seconds=timeout)
        return TCPStore(address, port, world, is_master=rank == 0, timeout=limit, master_listen_fd=server)
    except (RuntimeError, OSError) as error:
        raise ControlError(f"Rank {rank} of {world} could not meet the others at {address}:{port}: {error}.") from error


def _loopback_interface(address: str) -> str | None:
    """The name of the interface that has `address`, if that is one of this machine's loopback addresses."""
    found = socket.gethostbyname(address)
    if not ipaddress.ip_address(found).is_loopback:
        return None
    interfaces = psutil.net_if_addrs()
    return next((name for name, entries in interfaces.items() if any(e.address == found for e in entries)), None)
