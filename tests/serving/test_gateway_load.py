"""What the gateway does for models whose replicas follow the load: reports it, holds requests at no replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes

import ganglion.serving.gateway.gateway
from ganglion.serving.load import Load

Make = Callable[[], ScriptedReplica]
Ask = Callable[[float], "Future[httpx.Response]"]


@pytest.fixture
def rare_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reported is not reported because it was time."""
    monkeypatch.setattr(ganglion.serving.gateway.gateway, "LOAD_INTERVAL", 10 * PATIENCE)


@pytest.fixture
def ask(gateway: GatewayThread) -> Iterator[Ask]:
    url = f"http://127.0.0.1:{gateway.port}/v1/models/m:predict"

    def post(number: float) -> httpx.Response:
        return httpx.post(url, json={"instances": [[number, 0.0]]}, timeout=PATIENCE)

    with ThreadPoolExecutor(16) as pool:
        yield lambda number: pool.submit(post, number)


def reported(gateway: GatewayThread, condition: Callable[[Load], bool]) -> Load:
    """The first load that is like this."""
    while True:
        for load in gateway.loads.get(timeout=PATIENCE):
            if condition(load):
                return load


def get(gateway: GatewayThread, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{gateway.port}{path}", timeout=PATIENCE)


def answers(*asked: Future[httpx.Response]) -> list[float]:
    return [response.result(PATIENCE).json()["predictions"][0] for response in asked]


def test_what_waits_and_what_is_at_a_replica_is_the_load(gateway: GatewayThread, ask: Ask, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, elastic=True, container_concurrency=1)
    asked = [ask(number) for number in (1.0, 2.0, 3.0)]
    held = reported(gateway, lambda load: load.waiting == 3)
    steady = reported(gateway, lambda load: load.requests == 0)
    assert held.concurrency > 0
    assert steady.concurrency == 3
    for _ in asked:
        replica.echo()
    assert sorted(answers(*asked)) == [1.0, 2.0, 3.0]
    assert reported(gateway, lambda load: load.waiting == 0 and load.concurrency == 0).requests == 0


def test_models_that_do_not_follow_the_load_are_not_reported(gateway: GatewayThread, ask: Ask, replicas: Make) -> None:
    fixed, elastic = replicas(), replicas()
    gateway.apply(routes(model("m", [fixed]), model("other", [elastic], elastic=True)))
    asked = ask(1.0)
    fixed.echo()
    assert answers(asked) == [1.0]
    assert [load.model for load in gateway.loads.get(timeout=PATIENCE)] == ["other"]


def test_no_replica_holds_more_requests_than_it_may(gateway: GatewayThread, ask: Ask, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, elastic=True, container_concurrency=2)
    first = ask(0.0)
    batch, _x = replica.next()
    asked = [ask(float(number)) for number in range(1, 6)]
    reported(gateway, lambda load: load.waiting == 6)
    assert replica.idle, "nothing is sent ahead"
    replica.answer(batch, [0.0])
    sizes = [len(replica.echo()) for _ in range(3)]
    assert sizes == [2, 2, 1]
    assert sorted(answers(first, *asked)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_request_without_a_replica_is_held_and_told_at_once(
    rare_reports: None, gateway: GatewayThread, ask: Ask, replicas: Make
) -> None:
    gateway.serve(elastic=True)
    assert get(gateway, "/readyz").status_code == 200, "a request starts a replica"
    asked = ask(4.0)
    assert reported(gateway, lambda load: load.waiting > 0).requests == 1
    replica = replicas()
    gateway.serve(replica, elastic=True, generation=2)
    replica.echo()
    assert answers(asked) == [4.0]


def test_when_no_replica_can_be_started_held_requests_learn_why(
    gateway: GatewayThread, ask: Ask, replicas: Make
) -> None:
    gateway.serve(elastic=True)
    asked = [ask(1.0), ask(2.0)]
    reported(gateway, lambda load: load.waiting == 2)
    gateway.serve(elastic=True, error="the package is damaged", generation=2)
    later = ask(3.0)
    for refused in (*asked, later):
        response = refused.result(PATIENCE)
        assert response.status_code == 503
        assert response.json()["error"] == "No replica of model 'm' can be started: the package is damaged"
    assert later.result().headers["retry-after"] == "1"
    assert get(gateway, "/readyz").status_code == 503
    gateway.serve(elastic=True, generation=3)
    again = ask(5.0)
    reported(gateway, lambda load: load.waiting == 1)
    replica = replicas()
    gateway.serve(replica, elastic=True, generation=4)
    replica.echo()
    assert answers(again) == [5.0]


def test_the_requests_that_wait_for_the_first_replica_are_bounded(
    gateway: GatewayThread, ask: Ask, replicas: Make
) -> None:
    gateway.serve(elastic=True, max_queue=2)
    asked = [ask(1.0), ask(2.0)]
    reported(gateway, lambda load: load.waiting == 2)
    refused = ask(3.0).result(PATIENCE)
    assert refused.status_code == 503
    assert "2 instances wait for 0 replicas" in refused.json()["error"]
    replica = replicas()
    gateway.serve(replica, elastic=True, max_queue=2, generation=2)
    replica.echo()
    assert sorted(answers(*asked)) == [1.0, 2.0]


def test_what_waits_for_a_model_that_is_served_no_longer_is_refused_at_once(
    gateway: GatewayThread, ask: Ask, replicas: Make
) -> None:
    gateway.serve(elastic=True)
    asked = ask(1.0)
    reported(gateway, lambda load: load.waiting == 1)
    gateway.apply(routes(generation=2))
    assert asked.result(PATIENCE).json()["error"] == "Model 'm' is served no longer."


def test_what_waits_for_a_version_that_goes_is_answered_by_a_replica_of_it(
    gateway: GatewayThread, ask: Ask, replicas: Make
) -> None:
    gateway.serve(elastic=True)
    asked = ask(1.0)
    reported(gateway, lambda load: load.waiting == 1)
    gateway.apply(routes(model("m", [], state="UNLOADING", default=None, elastic=True), generation=2))
    assert reported(gateway, lambda load: load.waiting == 1).version == 1, "it is still told"
    replica = replicas()
    gateway.apply(routes(model("m", [replica], state="UNLOADING", default=None, elastic=True), generation=3))
    replica.echo()
    assert answers(asked) == [1.0]
