"""Which version answers while one is tried, and what the gateway says of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.canary import ROUTE_KEY, CanaryChoice, VersionTally
from ganglion.serving.gateway.head import Head
from ganglion.serving.routes import CanaryRoute, ModelRoute
from ganglion.serving.traffic import Traffic, bucket_of

Make = Callable[[], ScriptedReplica]
NO_KEY = Head("POST", "/", {})


def with_key(key: str) -> Head:
    return Head("POST", "/", {ROUTE_KEY: key.encode()})


@given(percent=st.floats(0.1, 99.9), count=st.integers(1, 2000))
def test_requests_without_a_key_are_shared_as_said_at_any_time(percent: float, count: int) -> None:
    choice = CanaryChoice("m", 1, CanaryRoute(2, percent))
    taken = sum(choice.takes(NO_KEY) for _ in range(count))
    assert abs(taken - count * percent / 100) <= 5


@given(st.text(max_size=200), st.floats(0.1, 99.9), st.floats(0.1, 99.9))
def test_a_caller_with_a_key_stays_and_a_greater_part_lets_nobody_go(key: str, first: float, second: float) -> None:
    smaller, greater = sorted((first, second))
    head = Head("POST", "/", {ROUTE_KEY: key.encode("utf-8", "replace")})
    taken = [CanaryChoice("m", 1, CanaryRoute(2, percent)).takes(head) for percent in (smaller, smaller, greater)]
    assert taken[0] == taken[1], "another gateway decides alike"
    assert taken[2] or not taken[0]


def test_other_versions_are_tried_with_other_callers() -> None:
    heads = [with_key(f"caller-{number}") for number in range(1000)]
    chosen = [
        {number for number, head in enumerate(heads) if CanaryChoice("m", 1, CanaryRoute(version, 10)).takes(head)}
        for version in (2, 3)
    ]
    assert all(60 <= len(callers) <= 140 for callers in chosen)
    assert len(chosen[0] & chosen[1]) <= 30


def test_what_the_caller_did_wrong_is_not_counted() -> None:
    tally = VersionTally("m", 2)
    for status, seconds in ((200, 0.1), (200, 0.1), (400, 9.0), (429, 9.0), (500, 0.2), (504, 30.0)):
        tally.count(status, seconds)
    assert tally.take() == Traffic(model="m", version=2, requests=4, errors=2, seconds={bucket_of(0.1): 2})
    assert tally.take() is None


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}/v1/models", timeout=PATIENCE) as client:
        yield client


def both(old: ScriptedReplica, *new: ScriptedReplica, percent: float) -> ModelRoute:
    """A model whose version 1 answers and whose version 2 is tried."""
    one, two = model("m", [old]), model("m", new, version=2)
    return msgspec.structs.replace(one, versions=one.versions + two.versions, canary=CanaryRoute(2, percent))


def answering(replica: ScriptedReplica, value: float) -> None:
    """Have a replica answer everything with a number from now on."""

    def answer() -> None:
        while True:
            batch, x = replica.next()
            replica.answer(batch, [value] * len(x))

    threading.Thread(target=_until_closed, args=(answer,), daemon=True).start()


def _until_closed(function: Callable[[], None]) -> None:
    try:
        function()
    except (queue.Empty, OSError):
        return  # the test is over, and nothing comes any more


def ask(client: httpx.Client, path: str = "/m", **headers: str) -> Any:
    response = client.post(f"{path}:predict", json={"instances": [[1, 2]]}, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()["predictions"][0]


def test_a_version_that_is_tried_answers_its_part_and_the_gateway_says_how(
    gateway: GatewayThread, replicas: Make, client: httpx.Client
) -> None:
    old, new = replicas(), replicas()
    answering(old, 1.0)
    answering(new, 2.0)
    gateway.apply(routes(both(old, new, percent=25)))
    gateway.wait_connected(2)
    found = [ask(client) for _ in range(100)]
    assert 23 <= found.count(2.0) <= 27
    assert {ask(client, "/m/versions/1") for _ in range(20)} == {1.0}, "who asks for a version gets it"
    assert len({ask(client, **{"Ganglion-Route-Key": "me"}) for _ in range(20)}) == 1
    counted = {1: 0, 2: 0}
    while sum(counted.values()) < 120:
        for traffic in gateway.traffic.get(timeout=PATIENCE):
            counted[traffic.version] += traffic.requests
            assert traffic.errors == 0
            assert sum(traffic.seconds.values()) == traffic.requests
    assert counted[1] + counted[2] == 120, "those that asked for a version are not compared"


def test_while_the_version_that_is_tried_has_no_replica_the_other_one_answers(
    gateway: GatewayThread, replicas: Make, client: httpx.Client
) -> None:
    old, new = replicas(), replicas()
    answering(old, 1.0)
    answering(new, 2.0)
    gateway.apply(routes(both(old, new, percent=99)))
    gateway.wait_connected(2)
    assert 2.0 in [ask(client) for _ in range(5)]
    gateway.apply(routes(both(old, percent=99), generation=2))
    assert {ask(client) for _ in range(20)} == {1.0}
    gateway.apply(routes(both(old, new, percent=99), generation=3))
    gateway.wait_connected(2)
    assert 2.0 in [ask(client) for _ in range(5)]
    gateway.apply(routes(model("m", [old]), generation=4))
    assert {ask(client) for _ in range(20)} == {1.0}
