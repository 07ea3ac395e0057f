"""Limits of callers, by real requests over real connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes

from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key

Make = Callable[[], ScriptedReplica]
ANN, BOB = new_key(), new_key()


class Crowd:
    """Callers that ask at the same time, with or without a key."""

    def __init__(self, gateway: GatewayThread, replica: ScriptedReplica) -> None:
        self.gateway = gateway
        self.replica = replica
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)
        self._pool = ThreadPoolExecutor(32)
        self._generation = 0

    def limit(self, callers: Callers | None, **fields: Any) -> None:
        self._generation += 1
        self.gateway.apply(routes(model("m", [self.replica], **fields), generation=self._generation, callers=callers))
        self.gateway.wait_connected(1)

    def ask(self, number: float, key: str | None = None, **headers: str) -> Future[httpx.Response]:
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        body = {"instances": [[number, 0.0]]}
        return self._pool.submit(self.client.post, "/v1/models/m:predict", json=body, headers=headers)

    def measured(self, name: str) -> float:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def wait_for(self, name: str, value: float) -> None:
        for _ in range(2000):
            if self.measured(name) == value:
                return
        raise AssertionError(f"{name} never was {value}")


@pytest.fixture
def crowd(gateway: GatewayThread, replicas: Make) -> Iterator[Crowd]:
    made = Crowd(gateway, replicas())
    yield made
    made.client.close()


def status(future: Future[httpx.Response]) -> int:
    return future.result(PATIENCE).status_code


@pytest.mark.parametrize(("key", "most"), [(None, 2), (ANN, 3)], ids=["anonymous", "authenticated"])
def test_of_four_requests_as_many_run_as_may_the_others_wait_and_all_are_answered(
    crowd: Crowd, key: str | None, most: int
) -> None:
    callers = Callers(
        anonymous=CallerLimit(concurrency=2),
        authenticated=CallerLimit(concurrency=3),
        keys=(ApiKey(name="ann", digest=digest_of(ANN)),),
    )
    crowd.limit(callers, max_batch=1)
    asked = [crowd.ask(number, key) for number in range(4)]
    crowd.wait_for("ganglion_callers_waiting", 4 - most)
    batch, x = crowd.replica.next()
    crowd.wait_for('ganglion_queue_instances{model="m",version="1"}', most - 1)
    crowd.replica.answer(batch, x[:, 0])
    seen = [float(x[0, 0]), *(crowd.replica.echo()[0] for _ in range(3))]
    assert sorted(seen) == [0, 1, 2, 3]
    assert [future.result(PATIENCE).json()["predictions"] for future in asked] == [[0], [1], [2], [3]]
    crowd.wait_for("ganglion_callers_waiting", 0)


def test_a_full_queue_of_callers_is_refused_at_once(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1, waiting=1)))
    first = crowd.ask(1)
    held = crowd.replica.next()
    second = crowd.ask(2)
    crowd.wait_for("ganglion_callers_waiting", 1)
    refused = crowd.ask(3).result(PATIENCE)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "anonymous has 1 requests in hand and 1 that wait" in refused.json()["error"]
    crowd.replica.answer(held[0], [1])
    assert crowd.replica.echo() == [2]
    assert [status(first), status(second)] == [200, 200]


def test_the_bytes_that_wait_are_bounded(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1, waiting_bytes=10)))
    first = crowd.ask(1)
    held = crowd.replica.next()
    assert status(crowd.ask(2)) == 429
    crowd.replica.answer(held[0], [1])
    assert status(first) == 200


def test_a_caller_that_goes_away_while_it_waits_leaves_its_place(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1)))
    first = crowd.ask(1)
    held = crowd.replica.next()
    with pytest.raises(httpx.ReadTimeout):
        crowd.client.post("/v1/models/m:predict", json={"instances": [[2, 0]]}, timeout=0.3)
    crowd.wait_for("ganglion_callers_waiting", 0)
    third = crowd.ask(3)
    crowd.wait_for("ganglion_callers_waiting", 1)
    crowd.replica.answer(held[0], [1])
    assert crowd.replica.echo() == [3]
    assert [status(first), status(third)] == [200, 200]


def test_who_waits_for_a_turn_too_long_is_told(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1)))
    first = crowd.ask(1)
    held = crowd.replica.next()
    late = crowd.ask(2, **{"x-request-timeout-ms": "200"}).result(PATIENCE)
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    crowd.replica.answer(held[0], [1])
    assert status(first) == 200
    again = crowd.ask(3)
    assert crowd.replica.echo() == [3]
    assert status(again) == 200


def test_bad_requests_that_waited_end_one_after_the_other(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1, waiting=1000)))
    first = crowd.ask(1)
    held = crowd.replica.next()
    url = f"{crowd.client.base_url}/v1/models/m:predict"
    with ThreadPoolExecutor(20) as pool:
        bad = [pool.submit(httpx.post, url, content=b"nonsense", timeout=PATIENCE) for _ in range(20)]
        crowd.wait_for("ganglion_callers_waiting", 20)
        crowd.replica.answer(held[0], [1])
        assert {future.result(PATIENCE).status_code for future in bad} == {400}
    assert status(first) == 200


def test_beyond_the_rate_requests_are_refused_and_the_log_says_whose(
    crowd: Crowd, capfd: pytest.CaptureFixture[str]
) -> None:
    limit = CallerLimit(rate=0.01, burst=2)
    callers = Callers(anonymous=limit, authenticated=limit, keys=(ApiKey(name="ann", digest=digest_of(ANN)),))
    crowd.limit(callers, max_batch=1)
    for key, name in ((None, "anonymous"), (ANN, "key ann")):
        good = [crowd.ask(1, key), crowd.ask(2, key)]
        assert sorted(crowd.replica.echo() + crowd.replica.echo()) == [1, 2]
        assert {status(future) for future in good} == {200}
        refused = crowd.ask(3, key).result(PATIENCE)
        assert refused.status_code == 429
        assert 90 <= int(refused.headers["retry-after"]) <= 100
        assert f"More than 0.01 requests a second by {name}" in refused.json()["error"]
        assert crowd.measured(f'ganglion_limited_total{{caller="{name}",limit="rate"}}') == 1
    assert crowd.replica.idle
    log = capfd.readouterr().err
    for name in ("anonymous", "key ann"):
        assert any("limited" in line and name in line and "limit=rate" in line for line in log.splitlines())
    assert ANN not in log


def test_a_flood_without_a_key_takes_nothing_from_who_has_one(crowd: Crowd) -> None:
    keys = (ApiKey(name="ann", digest=digest_of(ANN)), ApiKey(name="bob", digest=digest_of(BOB)))
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1, waiting=0), keys=keys), max_batch=1)
    held = crowd.ask(0)
    batch = crowd.replica.next()[0]
    assert [status(crowd.ask(number)) for number in range(1, 6)] == [429] * 5
    ann, bob = crowd.ask(10, ANN), crowd.ask(11, BOB)
    crowd.wait_for('ganglion_queue_instances{model="m",version="1"}', 2)
    crowd.replica.answer(batch, [0])
    assert sorted(crowd.replica.echo() + crowd.replica.echo()) == [10, 11]
    assert [status(future) for future in (held, ann, bob)] == [200] * 3


def test_keys_are_checked(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=None, keys=(ApiKey(name="ann", digest=digest_of(ANN)),)))
    nobody = crowd.ask(1).result(PATIENCE)
    assert nobody.status_code == 401
    assert "An API key is needed" in nobody.json()["error"]
    assert status(crowd.ask(1, BOB)) == 401
    assert status(crowd.ask(1, authorization="Basic YTpi")) == 401
    assert status(crowd.ask(1, **{"x-api-key": "nonsense"})) == 401
    assert crowd.replica.idle
    for headers in ({"authorization": f"Bearer {ANN}"}, {"x-api-key": ANN}):
        asked = crowd.ask(1, **headers)  # one after the other: of two at once either may come first, or both together
        assert crowd.replica.echo() == [1]
        assert status(asked) == 200


def test_new_limits_take_effect_and_requests_in_hand_go_on(crowd: Crowd) -> None:
    crowd.limit(Callers(anonymous=CallerLimit(concurrency=1)), max_batch=1)
    asked = [crowd.ask(number) for number in range(3)]
    crowd.wait_for("ganglion_callers_waiting", 2)
    crowd.limit(None, max_batch=1)
    free = crowd.ask(3)
    assert sorted(crowd.replica.echo()[0] for _ in range(4)) == [0, 1, 2, 3]
    assert [status(future) for future in (*asked, free)] == [200] * 4


def test_the_limit_of_one_key_is_its_own(crowd: Crowd) -> None:
    keys = (
        ApiKey(name="ann", digest=digest_of(ANN), limit=CallerLimit(concurrency=1, waiting=0)),
        ApiKey(name="bob", digest=digest_of(BOB)),
    )
    crowd.limit(Callers(keys=keys), max_batch=1)
    first = crowd.ask(1, ANN)
    batch = crowd.replica.next()[0]
    assert status(crowd.ask(2, ANN)) == 429
    others = [crowd.ask(number, BOB) for number in (3, 4)]
    crowd.replica.answer(batch, [1])
    assert sorted(crowd.replica.echo() + crowd.replica.echo()) == [3, 4]
    assert {status(future) for future in (first, *others)} == {200}
    assert json.loads(crowd.client.get("/readyz").content)["ready"]
