"""Which group a process belongs to: one that a controller keeps, one that an operator started, or none."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from ganglion.execution.member import Member, Peer
from ganglion.training.accelerator import AcceleratorCollective
from ganglion.training.assembly import Assembly
from ganglion.training.collective import Collective, Single
from ganglion.training.elastic import ElasticGroup
from ganglion.training.gloo import GlooCollective, meet
from ganglion.training.group import FixedGroup, Group
from ganglion.training.memory import DeviceSlots, Slots
from ganglion.training.numerics import Arithmetic
from ganglion.training.tcp import TcpCollective


def join(
    member: Member,
    environment: Mapping[str, str],
    slots: Slots | DeviceSlots,
    *,
    logical: int,
    arithmetic: Arithmetic,
    exact: bool,
) -> Group:
    """Join the processes of this training.

    A controller numbers the memberships that it sends; where there is none, the environment tells of a fixed gang.

    Args:
        member: this process.
        environment: `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` of a gang whose members stay together;
            without them, or in a world of one, the process is on its own.
        slots: its vectors.
        logical: number of logical workers.
        arithmetic: how it computes.
        exact: whether sums have one order.

    Raises:
        ControlError: the others could not be reached.
    """
    world = int(environment.get("WORLD_SIZE", "1"))
    if exact and member.membership.generation > 0:
        return ElasticGroup(member, slots, logical=logical, arithmetic=arithmetic)
    if world == 1:
        return FixedGroup(Single(slots), logical)
    rank, address, port = int(environment["RANK"]), environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = meet(address, port, rank=rank, world=world)
    if not exact:
        gloo = GlooCollective(slots, store=store, address=address, rank=rank, world=world, logical=logical)
        return FixedGroup(gloo, logical)
    listener = socket.create_server((_own_address(address, port), 0))
    host, own_port = listener.getsockname()[:2]
    store.set(f"endpoint/{rank}", f"tcp:{host}:{own_port}")
    endpoints = [store.get(f"endpoint/{other}").decode() for other in range(world)]
    peers = [
        Peer(member=f"rank-{number}", role="worker", index=number, rank=number, address="", endpoint=endpoint)
        for number, endpoint in enumerate(endpoints)
    ]
    assembly = Assembly(f"rank-{rank}", 1, member.secret, listener)
    mesh = assembly.form(peers, 0)
    assembly.close()
    collective: Collective
    if isinstance(slots, DeviceSlots):
        collective = AcceleratorCollective(mesh, slots, logical=logical)
    else:
        collective = TcpCollective(mesh, slots, logical=logical)
    return FixedGroup(collective, logical)


def _own_address(address: str, port: int) -> str:
    """The address of this host from which `address` is reached; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        return str(probe.getsockname()[0])
