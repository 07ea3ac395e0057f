"""How the processes of one training talk to each other.

`Collective` is the seam: a training in one process and one in many differ in nothing else. Every operation is called
by all processes in the same order.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import msgspec
import psutil
import torch
import torch.distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its __all__

from ganglion.core.errors import ControlError


class Collective(Protocol):
    """Operations in which all processes of a training take part.

    Attributes:
        rank: of this process, from 0.
        world: number of processes.
    """

    rank: int
    world: int

    def add(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` (contiguous), in place and on every process, by the sum over all of them.

        Raises:
            ControlError: another process is gone; so do all other operations.
        """
        ...

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` on every process by that of rank 0."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Give every process the plain data of all of them, in the order of their ranks."""
        ...

    def close(self) -> None:
        """Leave; every process does so after the same last operation."""
        ...


class Single:
    """A training in one process."""

    rank = 0
    world = 1

    def add(self, tensor: torch.Tensor) -> None:
        """The sum over one process: nothing to do."""

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Rank 0 is this process: nothing to do."""

    def gather(self, value: Any) -> list[Any]:
        """The value itself."""
        return [value]

    def close(self) -> None:
        """Nothing to leave."""


class GlooCollective:
    """Processes on CPUs, through torch's gloo.

    On one machine nothing listens beyond the loopback interface.

    Args:
        rank: of this process.
        world: number of processes, at least 2.
        address: host on which rank 0 offers the rendezvous.
        port: its port.
        timeout: seconds after which an operation fails that another process does not take part in.
    """

    def __init__(self, *, rank: int, world: int, address: str, port: int, timeout: float = 600.0) -> None:
        self.rank = rank
        self.world = world
        if (interface := _loopback_interface(address)) is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        limit = timedelta(seconds=timeout)
        with self._naming_the_peers("meet"):
            # Without a socket of ours torch would listen on every interface.
            server = socket.create_server((address, port)).detach() if rank == 0 else None
            store = TCPStore(address, port, world, is_master=rank == 0, timeout=limit, master_listen_fd=server)
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)

    def add(self, tensor: torch.Tensor) -> None:
        """Sum `tensor` over all processes in place; with two processes the result is the same to the last bit."""
        with self._naming_the_peers("add"):
            torch.distributed.all_reduce(tensor)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by that of rank 0, whatever its layout in memory."""
        buffer = tensor.detach().contiguous()
        with self._naming_the_peers("broadcast"):
            torch.distributed.broadcast(buffer, src=0)
        tensor.detach().copy_(buffer)

    def gather(self, value: Any) -> list[Any]:
        """Give every process the plain data of all of them, as msgpack."""
        mine = torch.frombuffer(bytearray(msgspec.msgpack.encode(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self._naming_the_peers("gather"):
            torch.distributed.all_gather(sizes, torch.tensor([len(mine)]))
            longest = int(max(sizes))
            everyone = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
            torch.distributed.all_gather(everyone, torch.nn.functional.pad(mine, (0, longest - len(mine))))
        return [
            msgspec.msgpack.decode(data[: int(size)].numpy().tobytes())
            for data, size in zip(everyone, sizes, strict=True)
        ]

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


def join_collective(environment: Mapping[str, str]) -> Collective:
    """Join the processes of this training.

    Args:
        environment: `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`, as an agent sets them; without them, or in a
            world of one, the process is on its own.

    Raises:
        ControlError: the others could not be reached.
    """
    world = int(environment.get("WORLD_SIZE", "1"))
    if world == 1:
        return Single()
    return GlooCollective(
        rank=int(environment["RANK"]),
        world=world,
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
    )


def _loopback_interface(address: str) -> str | None:
    """The name of the interface that has `address`, if that is one of this machine's loopback addresses."""
    found = socket.gethostbyname(address)
    if not ipaddress.ip_address(found).is_loopback:
        return None
    interfaces = psutil.net_if_addrs()
    return next((name for name, entries in interfaces.items() if any(e.address == found for e in entries)), None)
