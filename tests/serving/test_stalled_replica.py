"""A replica that holds a batch and says nothing, as one that was stopped does: nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes

Make = Callable[[], ScriptedReplica]


class Asker:
    """Asks the model `m`."""

    def __init__(self, gateway: GatewayThread) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)
        self._pool = ThreadPoolExecutor(8)

    def predict(self, *numbers: float) -> Future[Any]:
        body = {"instances": [[number, 0.0] for number in numbers]}
        return self._pool.submit(lambda: self.client.post("/v1/models/m:predict", json=body).json())

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


@pytest.fixture
def asker(gateway: GatewayThread) -> Iterator[Asker]:
    made = Asker(gateway)
    yield made
    made.client.close()


def teach(asker: Asker, *replicas: ScriptedReplica) -> None:
    """Let the gateway learn that a batch takes next to nothing, and one by one where each batch goes."""
    asked = asker.predict(*range(2 * len(replicas)))
    for replica in replicas:
        replica.echo()
    assert asked.result(PATIENCE) == {"predictions": [*range(2 * len(replicas))]}


def test_a_batch_that_a_replica_sits_on_is_answered_by_another(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    stopped, other = replicas(), replicas()
    gateway.serve(stopped, other, max_batch=2)
    teach(asker, stopped, other)
    asked = asker.predict(5, 6, 7, 8)
    held = stopped.next()
    first, second = other.echo(), other.echo()
    assert sorted(first + second) == [5, 6, 7, 8]
    assert asked.result(PATIENCE) == {"predictions": [5, 6, 7, 8]}
    assert asker.metric('ganglion_retries_total{model="m"}') == 1
    more = asker.predict(9, 10)
    assert other.echo() == [9, 10], "a replica that has stopped is given nothing"
    assert more.result(PATIENCE) == {"predictions": [9, 10]}
    stopped.answer(held[0], [0, 0])  # it goes on; what it says is too late
    gateway.wait_connected(2)
    both = asker.predict(11, 12, 13, 14)
    assert sorted(stopped.echo() + other.echo()) == [11, 12, 13, 14]
    assert both.result(PATIENCE) == {"predictions": [11, 12, 13, 14]}


def test_a_part_that_is_answered_twice_counts_once(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    three = [replicas() for _ in range(3)]
    gateway.serve(*three, max_batch=2)
    teach(asker, *three)
    asked = asker.predict(1, 2, 3, 4, 5, 6)
    batches = [replica.next() for replica in three]
    three[1].answer(batches[1][0], batches[1][1][:, 0])
    again, x = three[1].next()
    late = next(index for index in (0, 2) if batches[index][1][0, 0] == x[0, 0])
    three[late].answer(batches[late][0], x[:, 0])
    three[1].answer(again, [-1, -1])  # the same part: what counts is the first answer, and once
    copies = {three[1]: three[1].next()} if three[late].idle else {three[late]: three[late].next()}
    for replica, (batch, values) in copies.items():
        replica.answer(batch, values[:, 0])
    assert asked.result(PATIENCE) == {"predictions": [1, 2, 3, 4, 5, 6]}


def test_routes_settle_although_a_replica_that_left_them_has_stopped(
    gateway: GatewayThread, asker: Asker, replicas: Make
) -> None:
    stopped, other = replicas(), replicas()
    gateway.serve(stopped, other, max_batch=2)
    teach(asker, stopped, other)
    asked = asker.predict(5, 6, 7, 8)
    stopped.next()
    other.echo()
    gateway.apply(routes(model("m", [other], max_batch=2), generation=2))
    other.echo()
    assert asked.result(PATIENCE) == {"predictions": [5, 6, 7, 8]}
    assert gateway.settled.get(timeout=PATIENCE) == 1
    assert gateway.settled.get(timeout=PATIENCE) == 2
