"""What torch, TensorFlow and JAX find in their environment."""

import json
import socket

import pytest

from ganglion.execution.member import Membership, Peer
from ganglion.execution.rendezvous import environment, hold_port


def gang(*members: tuple[str, int, str]) -> Membership:
    peers = tuple(
        Peer(member=f"{role}-{index}", role=role, index=index, rank=rank, address=address)
        for rank, (role, index, address) in enumerate(members)
    )
    return Membership(generation=1, peers=peers)


TWO_HOSTS = gang(
    ("chief", 0, "10.0.0.1:2000"),
    ("worker", 0, "10.0.0.2:2001"),
    ("worker", 1, "10.0.0.1:2002"),
    ("ps", 0, "10.0.0.2:2003"),
)


def test_torch_meets_at_the_address_of_the_first_rank():
    for rank, peer in enumerate(TWO_HOSTS.peers):
        found = environment(TWO_HOSTS, peer.member)
        assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "2000")
        assert (found["RANK"], found["WORLD_SIZE"]) == (str(rank), "4")


def test_local_ranks_count_the_members_on_one_host():
    found = [environment(TWO_HOSTS, peer.member) for peer in TWO_HOSTS.peers]
    assert [values["LOCAL_RANK"] for values in found] == ["0", "0", "1", "1"]
    assert {values["LOCAL_WORLD_SIZE"] for values in found} == {"2"}


def test_tensorflow_gets_a_cluster_by_roles():
    config = json.loads(environment(TWO_HOSTS, "worker-1")["TF_CONFIG"])
    assert config["cluster"] == {
        "chief": ["10.0.0.1:2000"],
        "worker": ["10.0.0.2:2001", "10.0.0.1:2002"],
        "ps": ["10.0.0.2:2003"],
    }
    assert config["task"] == {"type": "worker", "index": 1}


def test_an_evaluator_is_told_of_the_cluster_but_is_not_part_of_it():
    """A `ParameterServerStrategy` waits for everybody in its cluster, and an evaluator never joins."""
    members = gang(("chief", 0, "h:1"), ("worker", 0, "h:2"), ("evaluator", 0, "h:3"))
    config = json.loads(environment(members, "evaluator-0")["TF_CONFIG"])
    assert config == {
        "cluster": {"chief": ["h:1"], "worker": ["h:2"]},
        "task": {"type": "evaluator", "index": 0},
    }


def test_jax_gets_a_coordinator_and_its_number():
    found = environment(TWO_HOSTS, "ps-0")
    assert found["JAX_COORDINATOR_ADDRESS"] == "10.0.0.1:2000"
    assert (found["JAX_PROCESS_ID"], found["JAX_NUM_PROCESSES"]) == ("3", "4")


def test_ranks_and_indexes_close_up_after_a_loss():
    shrunk = gang(("worker", 1, "10.0.0.2:1"), ("worker", 2, "10.0.0.3:2"))
    found = environment(shrunk, "worker-2")
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("1", "2", "10.0.0.2")
    assert json.loads(found["TF_CONFIG"])["task"] == {"type": "worker", "index": 1}


def test_a_held_port_is_free_for_nobody_else_until_it_is_let_go():
    holder = hold_port("127.0.0.1")
    address = holder.getsockname()
    assert 20000 <= address[1] < 32000
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    holder.close()
    with socket.create_server(address):
        pass


def test_held_ports_differ():
    holders = [hold_port("127.0.0.1") for _ in range(50)]
    assert len({holder.getsockname()[1] for holder in holders}) == 50
    for holder in holders:
        holder.close()
