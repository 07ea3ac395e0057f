"""Sharded requests and degraded ensembles in a real gateway, before replicas whose every step a test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes

from ganglion.serving import wire
from ganglion.serving.routes import EnsembleRoute
from ganglion.serving.sharding import HASH, Sharding

Make = Callable[[], ScriptedReplica]


class Asker:
    def __init__(self, gateway: GatewayThread) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)
        self._pool = ThreadPoolExecutor(8)

    def ask(self, *numbers: float, model: str = "m", allowed: int | None = None) -> Future[httpx.Response]:
        headers = {} if allowed is None else {"x-request-timeout-ms": str(allowed)}
        document = {"instances": [[number, 0.0] for number in numbers]}
        return self._pool.submit(self.client.post, f"/v1/models/{model}:predict", json=document, headers=headers)

    def infer(self, *numbers: float, model: str, allowed: int) -> Future[httpx.Response]:
        data = [value for number in numbers for value in (number, 0.0)]
        tensor = {"name": "x", "shape": [len(numbers), 2], "datatype": "FP32", "data": data}
        headers = {"x-request-timeout-ms": str(allowed)}
        return self._pool.submit(
            self.client.post, f"/v2/models/{model}/infer", json={"inputs": [tensor]}, headers=headers
        )


@pytest.fixture
def asker(gateway: GatewayThread) -> Iterator[Asker]:
    asker = Asker(gateway)
    yield asker
    asker.client.close()


def predictions(future: Future[httpx.Response]) -> Any:
    response = future.result(PATIENCE)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


TWO = Sharding(shards=2, limit=3)


def by_shard(first: ScriptedReplica, second: ScriptedReplica, batches: int) -> list[list[float]]:
    """Answer so many batches of each of two shards; returns what each was given."""
    return [[number for _ in range(batches) for number in replica.echo()] for replica in (first, second)]


def test_the_same_part_always_meets_the_same_shard(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=2, sharding=TWO)
    numbers = range(8)
    asked = asker.ask(*numbers)
    met = by_shard(first, second, batches=2)
    assert predictions(asked) == list(numbers)
    assert sorted(met) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for _ in range(3):
        asked = asker.ask(*numbers)
        assert by_shard(first, second, batches=2) == met
        assert predictions(asked) == list(numbers)


def test_a_shard_waits_for_its_replica_although_another_is_free(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=2, sharding=TWO)
    asked = asker.ask(*range(8))
    held = second.next()
    met = first.echo() + first.echo()
    assert set(met) in ({0, 1, 2, 3}, {4, 5, 6, 7})
    small = asker.ask(20)
    assert first.echo() == [20], "what is not sharded goes anywhere"
    assert predictions(small) == [20]
    assert first.idle, "the other shard's second batch is not its"
    second.answer(held[0], held[1][:, 0])
    second.echo()
    assert predictions(asked) == list(range(8))


def test_a_dead_shards_parts_are_answered_by_another(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=2, sharding=TWO)
    asked = asker.ask(*range(8))
    second.next()  # it holds a batch when it dies
    second.die()
    answered = [number for _ in range(4) for number in first.echo()]
    assert sorted(answered) == list(range(8))
    assert predictions(asked) == list(range(8))


def test_shards_of_a_replica_that_the_routes_no_longer_name_go_to_another(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=1, sharding=TWO)
    asked = asker.ask(*range(8))
    held = second.next()
    own = [number for _ in range(4) for number in first.echo()]
    gateway.serve(first, generation=2, max_batch=1, sharding=TWO)
    taken_over = first.echo() + first.echo()  # one may have been sent ahead to the other
    assert not set(taken_over) & set(own)
    second.answer(held[0], held[1][:, 0])
    while not asked.done():
        for replica in (first, second):
            if not replica.idle:
                replica.echo()
    assert predictions(asked) == list(range(8))


def test_equal_keys_meet_one_shard_in_every_request(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=64, sharding=Sharding(shards=2, by=HASH, key="x", limit=0))
    home: dict[float, int] = {}
    for numbers in ([1, 2, 3, 4, 5, 6, 7, 8], [8, 3, 1, 6], [2, 2, 7, 5, 4, 4, 1, 8, 3]):
        asked = asker.ask(*numbers)
        for index, replica in enumerate((first, second)):
            for number in replica.echo():
                assert home.setdefault(number, index) == index
        assert predictions(asked) == numbers
    assert set(home.values()) == {0, 1}


def test_parts_that_do_not_go_together_are_an_error(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=4, sharding=TWO)
    asked = asker.ask(*range(8))
    batch, x = first.next()
    first.answer(batch, x[:, 0])
    batch, x = second.next()
    second.answer(batch, x)  # two numbers for each instance
    response = asked.result(PATIENCE)
    assert response.status_code == 500
    assert "parts that do not go together" in response.json()["error"]


def test_a_failure_names_the_instance_of_the_request(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=3, sharding=TWO)
    asked = asker.ask(*range(6))
    for _ in range(2):
        batch, x = replica.next()
        failures = [wire.Failure(int(row), True, "no") for row in range(3) if x[row, 0] == 4]
        replica.answer(batch, x[:, 0], failures)
    response = asked.result(PATIENCE)
    assert (response.status_code, response.json()["error"]) == (400, "Instance 4: no")


# ensembles


def ensemble(gateway: GatewayThread, members: list[ScriptedReplica], **fields: Any) -> None:
    names = [f"m{number}" for number in range(len(members))]
    route = EnsembleRoute(name="all", members=tuple(names), **fields)
    models = [model(name, [replica]) for name, replica in zip(names, members, strict=True)]
    gateway.apply(routes(*models, ensembles=[route]))
    gateway.wait_connected(len(members))


def test_a_quorum_answers_at_the_deadline_and_says_who_is_missing(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    members = [replicas() for _ in range(3)]
    ensemble(gateway, members, quorum=2)
    asked = asker.ask(1, 2, model="all", allowed=300)
    members[0].echo()
    batch, _x = members[2].next()
    members[2].answer(batch, [3, 6])
    assert members[1].next()[1][:, 0].tolist() == [1, 2]  # and never answers
    assert predictions(asked) == [2, 4]
    assert asked.result().headers["ganglion-degraded"] == "members=2/3; missing=m1"
    assert asked.result().elapsed.total_seconds() >= 0.25, "at the deadline, not before"


def test_the_open_inference_protocol_says_it_among_its_parameters(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    members = [replicas(), replicas()]
    ensemble(gateway, members, quorum=1)
    asked = asker.infer(1, 2, model="all", allowed=200)
    members[0].echo()
    answer = asked.result(PATIENCE).json()
    assert answer["outputs"][0]["data"] == [1, 2]
    assert answer["parameters"] == {"degraded": "members=1/2; missing=m1"}


def test_all_members_are_waited_for_while_there_is_time(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    members = [replicas() for _ in range(3)]
    ensemble(gateway, members, quorum=1)
    asked = asker.ask(6, model="all")
    for member in members:
        member.echo()
    assert predictions(asked) == [6]
    assert "ganglion-degraded" not in asked.result().headers


def test_fewer_than_the_quorum_are_an_error(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    members = [replicas() for _ in range(3)]
    ensemble(gateway, members, quorum=2)
    asked = asker.ask(1, model="all", allowed=200)
    members[0].echo()
    response = asked.result(PATIENCE)
    assert response.status_code == 504
    assert "1 of 3 members answered in time; the quorum is 2" in response.json()["error"]


def test_a_member_that_fails_is_missing_and_a_bad_instance_is_not_forgiven(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    members = [replicas() for _ in range(2)]
    ensemble(gateway, members, quorum=1)
    asked = asker.ask(4, model="all")
    members[0].answer(members[0].next()[0], [0], [wire.Failure(0, False, "it broke")])
    members[1].echo()
    assert predictions(asked) == [4]
    assert asked.result().headers["ganglion-degraded"] == "members=1/2; missing=m0"
    asked = asker.ask(5, model="all")
    members[0].answer(members[0].next()[0], [0], [wire.Failure(0, True, "no number")])
    members[1].next()
    assert asked.result(PATIENCE).status_code == 400


def test_hopeless_members_do_not_keep_a_caller_waiting(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    members = [replicas() for _ in range(3)]
    ensemble(gateway, members, quorum=3)
    asked = asker.ask(4, model="all")
    members[0].answer(members[0].next()[0], [0], [wire.Failure(0, False, "it broke")])
    response = asked.result(PATIENCE)
    assert (response.status_code, response.json()["error"]) == (500, "Instance 0: it broke")


def test_weights_count(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    members = [replicas(), replicas()]
    ensemble(gateway, members, how="weighted", weights=(3.0, 1.0))
    asked = asker.ask(1, model="all")
    for member, value in zip(members, (2.0, 6.0), strict=True):
        member.answer(member.next()[0], [value])
    assert predictions(asked) == [3]


def test_the_members_of_an_ensemble_may_be_sharded(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    first, second, single = replicas(), replicas(), replicas()
    sharded = model("m0", [first, second], sharding=TWO, max_batch=2)
    route = EnsembleRoute(name="all", members=("m0", "m1"))
    gateway.apply(routes(sharded, model("m1", [single]), ensembles=[route]))
    gateway.wait_connected(3)
    asked = asker.ask(*range(8), model="all")
    met = by_shard(first, second, batches=2)
    assert sorted(met) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    single.echo()
    assert predictions(asked) == list(range(8))
