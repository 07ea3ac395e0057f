"""How the members of a gang find each other: what torch, TensorFlow and JAX expect in the environment.

Each agent holds a free port from the moment it joins until its entry is called. The membership carries everyone's
address, so the environment is a pure function of it; the port of the first rank is the meeting point.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Mapping

from ganglion.core.errors import ControlError
from ganglion.execution.member import Membership

_FIRST_PORT, _LAST_PORT = 20000, 32000
"""Below the range from which kernels take ports for outgoing connections, so that none takes ours in between."""


def hold_port(host: str) -> socket.socket:
    """Bind a free port on `host`; close the socket right before the entry binds it.

    Raises:
        ControlError: a thousand ports in the range were taken.
    """
    for _ in range(1000):
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind((host, _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)))
        except OSError:
            holder.close()
        else:
            return holder
    raise ControlError(f"No free port between {_FIRST_PORT} and {_LAST_PORT} on {host}.")


def environment(membership: Membership, member: str) -> dict[str, str]:
    """The variables by which frameworks find the peers of `member`.

    `torch.distributed`: `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`
    (https://docs.pytorch.org/docs/stable/distributed.html). TensorFlow: `TF_CONFIG`
    (https://www.tensorflow.org/guide/distributed_training). JAX: `JAX_COORDINATOR_ADDRESS`, `JAX_PROCESS_ID`,
    `JAX_NUM_PROCESSES` (https://docs.jax.dev/en/latest/multi_process.html).

    Args:
        membership: who is in the gang.
        member: id of the member whose environment it is.
    """
    peers = membership.peers
    rank = [peer.member for peer in peers].index(member)
    me = peers[rank]
    hosts = [peer.address.rpartition(":")[0] for peer in peers]
    first_host, _, first_port = peers[0].address.rpartition(":")
    cluster: dict[str, list[str]] = {}
    for peer in peers:
        if peer.role != "evaluator":  # TensorFlow keeps it outside the cluster that trains
            cluster.setdefault(peer.role, []).append(peer.address)
    same = [peer.member for peer in peers if peer.role == me.role]
    task: Mapping[str, str | int] = {"type": me.role, "index": same.index(member)}
    return {
        "MASTER_ADDR": first_host,
        "MASTER_PORT": first_port,
        "RANK": str(rank),
        "WORLD_SIZE": str(len(peers)),
        "LOCAL_RANK": str(hosts[:rank].count(hosts[rank])),
        "LOCAL_WORLD_SIZE": str(hosts.count(hosts[rank])),
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}),
        "JAX_COORDINATOR_ADDRESS": peers[0].address,
        "JAX_PROCESS_ID": str(rank),
        "JAX_NUM_PROCESSES": str(len(peers)),
    }
