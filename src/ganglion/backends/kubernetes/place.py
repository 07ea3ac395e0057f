"""Which member a pod is, read from what the training operators put into its environment; pure.

| operator | variables |
|---|---|
| PyTorchJob, torchrun | `RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` |
| TrainJob with a torch runtime | `PET_NODE_RANK`, `PET_NNODES`, `PET_MASTER_ADDR`, `PET_MASTER_PORT` |
| TFJob | `TF_CONFIG` |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ganglion.core.errors import ControlError
from ganglion.execution.member import Membership, Peer
from ganglion.execution.rendezvous import environment


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process stands in its gang.

    Attributes:
        membership: who is in it; of a peer whose address the operator does not tell, the address is empty.
        rank: of this process.
        variables: what frameworks expect in the environment, as `execution.rendezvous` makes it elsewhere.
    """

    membership: Membership
    rank: int
    variables: dict[str, str]

    @property
    def peer(self) -> Peer:
        """This process."""
        return self.membership.peers[self.rank]


def find_place(variables: Mapping[str, str], roles: Mapping[str, int]) -> Place:
    """Read the place of this process.

    Args:
        variables: its environment.
        roles: how many members each role was planned with, in rank order; empty for a task or service.

    Raises:
        ControlError: the environment does not say it.
    """
    if not roles:
        return Place(membership=Membership(peers=(_peer("task", 0, 0, ""),)), rank=0, variables={})
    if "TF_CONFIG" in variables:
        return _from_tensorflow(variables["TF_CONFIG"], tuple(roles))
    for prefix, rank, world in (("", "RANK", "WORLD_SIZE"), ("PET_", "PET_NODE_RANK", "PET_NNODES")):
        if rank in variables and world in variables:
            found = [variables.get(name, "") for name in (rank, world, f"{prefix}MASTER_ADDR", f"{prefix}MASTER_PORT")]
            return _from_torch(*found, roles=roles)
    raise ControlError(
        "The environment says neither RANK and WORLD_SIZE, PET_NODE_RANK and PET_NNODES, nor TF_CONFIG: this process "
        "does not know which member of the gang it is. Was it started by a training operator?"
    )


def _from_torch(rank: str, world: str, host: str, port: str, *, roles: Mapping[str, int]) -> Place:
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world) and host and port.isdigit()):
        raise ControlError(f"Rank {rank!r} of {world!r} with the master {host!r}:{port!r} is no place in a gang.")
    names = [(name, index) for name, count in roles.items() for index in range(count)][: int(world)]
    last = list(roles)[-1]
    while len(names) < int(world):  # grown beyond the plan
        names.append((last, sum(1 for name, _ in names if name == last)))
    peers = tuple(
        _peer(name, index, number, "" if number else f"{host}:{port}") for number, (name, index) in enumerate(names)
    )
    return Place(
        membership=Membership(peers=peers),
        rank=int(rank),
        variables={
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
            "JAX_PROCESS_ID": rank,
            "JAX_NUM_PROCESSES": world,
        },
    )


def _from_tensorflow(text: str, roles: tuple[str, ...]) -> Place:
    try:
        config: dict[str, Any] = msgspec.json.decode(text)
        cluster: dict[str, list[str]] = config["cluster"]
        role, index = str(config["task"]["type"]), int(config["task"]["index"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise ControlError(f"TF_CONFIG does not parse ({type(error).__name__}: {error}): {text}") from error
    order = [name for name in (*roles, *cluster) if name in cluster]
    peers: list[Peer] = []
    for name in dict.fromkeys(order):
        peers += [_peer(name, number, len(peers) + number, where) for number, where in enumerate(cluster[name])]
    rank = next((peer.rank for peer in peers if (peer.role, peer.index) == (role, index)), None)
    if rank is None:  # operators leave evaluators out of the cluster
        rank = len(peers)
        peers.append(_peer(role, index, rank, "127.0.0.1:0"))
    membership = Membership(peers=tuple(peers))
    return Place(
        membership=membership,
        rank=rank,
        variables={**environment(membership, peers[rank].member), "TF_CONFIG": text},
    )


def _peer(role: str, index: int, rank: int, address: str) -> Peer:
    return Peer(member=f"{role}-{index}", role=role, index=index, rank=rank, address=address)
