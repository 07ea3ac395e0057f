"""Deadlines: from the header, from the body or the model's, and what is done to keep them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica

from ganglion.serving.gateway.loop_lag import LoopLag

Make = Callable[[], ScriptedReplica]


class Caller:
    def __init__(self, gateway: GatewayThread) -> None:
        self._pool = ThreadPoolExecutor(16)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)

    def ask(self, number: float, milliseconds: object = None) -> Future[httpx.Response]:
        headers = {} if milliseconds is None else {"x-request-timeout-ms": str(milliseconds)}
        body = {"instances": [[number, 0.0]]}
        return self._pool.submit(self.client.post, "/v1/models/m:predict", json=body, headers=headers)

    def wait_for_queue(self, rows: int) -> None:
        wanted = f'ganglion_queue_instances{{model="m",version="1"}} {rows}'
        for _ in range(2000):
            if wanted in self.client.get("/metrics").text.splitlines():
                return
        raise AssertionError(f"never {rows} instances waited")


@pytest.fixture
def caller(gateway: GatewayThread) -> Iterator[Caller]:
    made = Caller(gateway)
    yield made
    made.client.close()


def test_what_is_due_first_goes_first(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=1)
    first = caller.ask(0)
    batch, _ = replica.next()
    later = []
    for number, milliseconds in enumerate((20_000, 15_000, 25_000, 10_000), 1):
        later.append(caller.ask(number, milliseconds))
        caller.wait_for_queue(number)
    replica.answer(batch, [0])
    assert [replica.echo()[0] for _ in range(4)] == [4, 2, 1, 3]
    assert {asked.result(PATIENCE).status_code for asked in (first, *later)} == {200}


def test_the_header_shortens_what_the_model_allows_and_does_not_lengthen_it(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    gateway.serve(state="LOADING", timeout=0.3)
    short = caller.ask(1, 100).result(PATIENCE)
    long = caller.ask(1, 60_000).result(PATIENCE)
    assert (short.status_code, long.status_code) == (503, 503)
    assert "free within 0.1 s" in short.json()["error"]
    assert "free within 0.3 s" in long.json()["error"]


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "soon", "9" * 10, ""])
def test_a_timeout_that_is_none_is_refused(gateway: GatewayThread, caller: Caller, replicas: Make, given: str) -> None:
    gateway.serve(replicas())
    refused = caller.ask(1, given).result(PATIENCE)
    assert refused.status_code == 400
    assert "whole number of milliseconds" in refused.json()["error"]


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_once(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=1)
    pool = next(gateway.gateway.catalog.pools())
    for _ in range(50):
        pool.latency.observe(1, 1.0)  # a second for each instance
    held = caller.ask(0)
    batch, _ = replica.next()
    waiting = caller.ask(1)
    caller.wait_for_queue(1)
    refused = caller.ask(2, 1500).result(PATIENCE)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "an answer would take" in refused.json()["error"]
    assert "allows 1.5 s" in refused.json()["error"]
    patient = caller.ask(3, 20_000)
    caller.wait_for_queue(2)
    replica.answer(batch, [0])
    assert [replica.echo()[0] for _ in range(2)] == [3, 1], "the patient one is due before the model's 30 s"
    assert {asked.result(PATIENCE).status_code for asked in (held, waiting, patient)} == {200}


def test_a_wrong_expectation_does_not_refuse_everything_for_ever(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=1)
    pool = next(gateway.gateway.catalog.pools())
    for _ in range(50):
        pool.latency.observe(1, 60.0)
    asked = caller.ask(1, 5_000)
    assert replica.echo() == [1], "nothing else waits, so it is tried"
    assert asked.result(PATIENCE).status_code == 200


@pytest.mark.parametrize(
    ("fixed", "each", "allowed", "sizes"),
    [
        pytest.param(1.5, 0.5, 3_500, [3, 1], id="four would be too late"),
        pytest.param(1.5, 0.5, 29_000, [4], id="four are in time"),
        pytest.param(0.0, 1.0, 3_500, [1, 3], id="more at a time gains nothing and would risk the deadline"),
        pytest.param(0.0, 1.0, 29_000, [4], id="more at a time gains nothing, but there is time"),
    ],
)
def test_a_batch_is_the_largest_that_meets_the_earliest_deadline_and_is_worth_it(
    gateway: GatewayThread,
    caller: Caller,
    replicas: Make,
    fixed: float,
    each: float,
    allowed: int,
    sizes: list[int],
) -> None:
    gateway.serve(state="LOADING", max_batch=8)
    pool = next(gateway.gateway.catalog.pools())
    for _ in range(100):
        pool.latency.observe(1, fixed + each)
        pool.latency.observe(8, fixed + 8 * each)
    later = [caller.ask(0, allowed), *(caller.ask(number) for number in range(1, 4))]
    caller.wait_for_queue(4)
    replica = replicas()
    gateway.serve(replica, generation=2, max_batch=8)
    seen = []
    while sum(map(len, seen)) < 4:
        seen.append(replica.echo())
    assert [len(batch) for batch in seen] == sizes
    assert seen[0][0] == 0
    assert {asked.result(PATIENCE).status_code for asked in later} == {200}


def test_the_time_for_which_a_request_was_not_read_counts(
    gateway: GatewayThread, caller: Caller, replicas: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.serve(replicas())
    monkeypatch.setattr(LoopLag, "seconds", lambda _self, _now: 0.2)
    refused = caller.ask(1, 150).result(PATIENCE)
    assert refused.status_code == 503, "it was over before it was read"
    replica = replicas()
    gateway.serve(replica, generation=2)
    patient = caller.ask(2, 60_000)
    assert replica.echo() == [2]
    assert patient.result(PATIENCE).status_code == 200


def test_an_answer_that_came_too_late_is_not_given(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica)
    asked = caller.ask(1, 100)
    batch, _ = replica.next()
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(PATIENCE)

    gateway._loop.call_soon_threadsafe(hold)
    assert held.wait(PATIENCE)
    replica.answer(batch, [1])
    time.sleep(0.15)  # the deadline passes while the gateway is kept from reading
    go_on.set()
    assert asked.result(PATIENCE).status_code == 504


def test_who_waits_for_a_replica_is_told_within_the_deadline(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    replica = replicas()
    gateway.serve(replica)
    pool = next(gateway.gateway.catalog.pools())
    told: list[tuple[float, float]] = []
    asked = caller.ask(1, 200)
    batch, _ = replica.next()
    (link,) = pool._links.values()
    (part,) = link.parts
    fail = part.prediction._finish
    part.prediction._finish = lambda result: (told.append((time.monotonic(), part.prediction.deadline)), fail(result))
    assert asked.result(PATIENCE).status_code == 504
    ((moment, deadline),) = told
    assert moment < deadline
    replica.answer(batch, [1])
