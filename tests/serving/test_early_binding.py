"""Replicas chosen by a policy when a request comes, by real requests over real connections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica

Make = Callable[[], ScriptedReplica]


class Caller:
    def __init__(self, gateway: GatewayThread) -> None:
        self._pool = ThreadPoolExecutor(32)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)

    def ask(self, number: float) -> Future[httpx.Response]:
        return self._pool.submit(self._client.post, "/v1/models/m:predict", json={"instances": [[number, 0.0]]})

    def wait_for(self, name: str, value: float) -> None:
        for _ in range(2000):
            if f"{name} {value:g}" in self._client.get("/metrics").text.splitlines():
                return
        raise AssertionError(f"{name} never was {value:g}")

    def close(self) -> None:
        self._client.close()
        self._pool.shutdown()


@pytest.fixture
def caller(gateway: GatewayThread) -> Iterator[Caller]:
    made = Caller(gateway)
    yield made
    made.close()


QUEUE = 'ganglion_queue_instances{model="m",version="1"}'


def test_by_round_robin_everybody_gets_the_same_whoever_is_free(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    fast, held = replicas(), replicas()
    gateway.serve(fast, held, balancing="round-robin", max_batch=1, container_concurrency=1)
    asked = [caller.ask(number) for number in range(6)]
    first = held.next()
    seen = [fast.echo()[0] for _ in range(3)]
    caller.wait_for(QUEUE, 2)
    assert fast.idle, "what is bound to the other waits for it"
    held.answer(first[0], first[1][:, 0])
    seen += [float(first[1][0, 0]), *(held.echo()[0] for _ in range(2))]
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]
    assert [future.result(PATIENCE).status_code for future in asked] == [200] * 6


def test_what_is_bound_to_a_replica_that_dies_goes_to_another(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    one, other = replicas(), replicas()
    gateway.serve(one, other, balancing="round-robin", max_batch=1, container_concurrency=1)
    asked = [caller.ask(number) for number in range(6)]
    one.next()
    other.next()
    caller.wait_for(QUEUE, 4)
    one.die()
    caller.wait_for(QUEUE, 5)
    other.die()
    third = replicas()
    gateway.serve(third, generation=2, balancing="least-outstanding", max_batch=1, container_concurrency=1)
    assert sorted(third.echo()[0] for _ in range(6)) == [0, 1, 2, 3, 4, 5]
    assert [future.result(PATIENCE).status_code for future in asked] == [200] * 6


def test_the_same_content_goes_to_the_same_replica(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    made = [replicas() for _ in range(3)]
    gateway.serve(*made, balancing="consistent-hash", max_batch=1, container_concurrency=1)
    places: dict[float, Counter[int]] = {}
    for _round in range(3):
        for number in range(8):
            asked = caller.ask(number)
            end = time.monotonic() + PATIENCE
            while all(replica.idle for replica in made) and time.monotonic() < end:
                time.sleep(0.0005)
            (place,) = [place for place, replica in enumerate(made) if not replica.idle]
            assert made[place].echo() == [number]
            places.setdefault(number, Counter())[place] += 1
            assert asked.result(PATIENCE).status_code == 200
    assert all(len(found) == 1 for found in places.values())
    assert len({place for found in places.values() for place in found}) > 1


@pytest.mark.parametrize("batches", [20, 2], ids=["known", "suspected"])
def test_late_binding_leaves_a_slow_replica_out_while_faster_ones_suffice(
    gateway: GatewayThread, caller: Caller, replicas: Make, batches: int
) -> None:
    fast, slow = replicas(), replicas()
    gateway.serve(fast, slow, max_batch=1, container_concurrency=1)
    pool = next(gateway.gateway.catalog.pools())
    for replica, seconds, count in ((fast, 0.02, 20), (slow, 2.0, batches)):
        for _ in range(count):
            pool._links[replica.route.id].latency.observe(1, seconds)
    for _ in range(20):
        pool.latency.observe(1, 0.02)
    asked = []
    for number in range(0, 10, 2):
        asked += [caller.ask(number), caller.ask(number + 1)]
        assert sorted(fast.echo() + fast.echo()) == [number, number + 1]
        wait(asked[-2:])
    assert slow.idle
    first = caller.ask(10)
    held = fast.next()
    second = caller.ask(11)
    assert sorted(slow.echo() + slow.echo()) == [10, 11], "the fast one is overdue, so the slow one is better than none"
    fast.answer(held[0], [10])
    assert [future.result(PATIENCE).status_code for future in (*asked, first, second)] == [200] * 12
