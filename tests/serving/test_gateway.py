from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes

from ganglion.artifacts.package import ImageInput
from ganglion.serving import wire
from ganglion.serving.gateway import tensorflow_rest
from ganglion.serving.gateway.tensorflow_rest import render_predictions
from ganglion.serving.routes import EnsembleRoute

Make = Callable[[], ScriptedReplica]


class Caller:
    """Asks from threads, one connection for each request."""

    def __init__(self, gateway: GatewayThread) -> None:
        self.url = f"http://127.0.0.1:{gateway.port}"
        self._pool = ThreadPoolExecutor(64)
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, document: Any) -> httpx.Response:
        return self.client.post(path, json=document)

    def predict(self, *numbers: float, model: str = "m") -> Future[httpx.Response]:
        document = {"instances": [[number, 0.0] for number in numbers]}
        return self._pool.submit(self.post, f"/v1/models/{model}:predict", document)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Ask until something that the gateway shows has come true."""
        for _ in range(2000):
            if condition():
                return
        raise AssertionError("it never came true")

    def waiting(self, path: str = "/metrics") -> dict[str, float]:
        lines = [line for line in self.get(path).text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def wait_for_queue(self, rows: int) -> None:
        self.wait_for(lambda: self.waiting().get('ganglion_queue_instances{model="m",version="1"}') == rows)

    def wait_ready(self) -> None:
        self.wait_for(lambda: self.get("/readyz").status_code == 200)


@pytest.fixture
def caller(gateway: GatewayThread) -> Iterator[Caller]:
    caller = Caller(gateway)
    yield caller
    caller.client.close()


def result(future: Future[httpx.Response]) -> Any:
    response = future.result(PATIENCE)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def error(future: Future[httpx.Response]) -> tuple[int, str]:
    response = future.result(PATIENCE)
    return response.status_code, response.json()["error"]


def test_a_request_waits_until_a_replica_is_ready(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    assert caller.get("/readyz").status_code == 503
    assert caller.get("/healthz").status_code == 200
    gateway.serve(state="LOADING")
    asked = caller.predict(1, 2, 3)
    caller.wait_for_queue(3)
    assert caller.get("/readyz").json() == {"ready": False, "error": "Not ready: m."}
    replica = replicas()
    gateway.serve(replica, generation=2)
    assert replica.echo() == [1, 2, 3]
    assert result(asked) == [1, 2, 3]
    caller.wait_ready()


def test_an_idle_replica_takes_a_request_at_once_and_a_free_one_all_that_waits(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=4)
    first = caller.predict(1)
    batch, x = replica.next()
    assert x[:, 0].tolist() == [1], "nothing waits for a batch to fill"
    later = []
    for number in range(2, 8):
        later.append(caller.predict(number))
        caller.wait_for_queue(number - 1)
    replica.answer(batch, [1])
    assert [replica.echo(), replica.echo()] == [[2, 3, 4, 5], [6, 7]]
    assert [result(asked) for asked in [first, *later]] == [[number] for number in range(1, 8)]


def test_a_request_larger_than_a_batch_is_cut_and_joined_in_order(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, second, max_batch=2)
    asked = caller.predict(1, 2, 3, 4)
    one, two = first.next(), second.next()
    second.answer(two[0], two[1][:, 0])
    first.answer(one[0], one[1][:, 0])
    assert result(asked) == [1, 2, 3, 4]


def test_kinds_are_never_mixed_in_a_batch(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    gateway.serve(state="LOADING", image=ImageInput(1, 2, "L"))
    numbers = caller.predict(5)
    caller.wait_for_queue(1)
    image = caller._pool.submit(caller.post, "/v1/models/m:predict", {"instances": [{"b64": "AAAA"}]})
    caller.wait_for_queue(2)
    replica = replicas()
    gateway.serve(replica, generation=2, image=ImageInput(1, 2, "L"))
    assert replica.echo() == [5]
    batch, _ = replica.next()
    assert (batch.tensors, batch.images) == ((), (3,))
    replica.answer(batch, [9])
    assert (result(numbers), result(image)) == ([5], [9])


def test_a_request_whose_replica_dies_is_answered_by_another(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    victim = replicas()
    gateway.serve(victim, max_batch=8)
    asked = [caller.predict(1)]
    victim.next()
    asked.append(caller.predict(2))
    caller.wait_for_queue(1)
    victim.die()
    caller.wait_for_queue(2)
    heir = replicas()
    gateway.serve(heir, generation=2, max_batch=8)
    assert sorted(heir.echo() + heir.echo()) == [1, 2]
    assert sorted(result(future)[0] for future in asked) == [1, 2]
    assert caller.waiting()['ganglion_retries_total{model="m"}'] == 1


def test_a_request_that_ends_two_replicas_alone_gets_an_error_and_the_others_do_not(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    gateway.serve(state="LOADING")
    poison = caller.predict(666)
    caller.wait_for_queue(1)
    innocent = caller.predict(1)
    caller.wait_for_queue(2)
    deaths = []
    for generation in (2, 3, 4):
        replica = replicas()
        gateway.serve(replica, generation=generation)
        deaths.append(replica.next()[1][:, 0].tolist())
        if deaths[-1] == [1]:
            break
        replica.die()
        caller.wait_for(lambda: caller.waiting().get('ganglion_replicas{model="m",version="1"}') == 0)
    assert deaths == [[666, 1], [666], [666]]
    assert error(poison) == (500, "This request ended 3 replicas and is not tried again.")
    last = replicas()
    gateway.serve(last, generation=5)
    assert last.echo() == [1]
    assert result(innocent) == [1]


def test_the_next_short_batch_lies_ready_and_is_not_blamed_for_a_death_before_it(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    victim = replicas()
    gateway.serve(victim, max_batch=8)
    pool = next(gateway.gateway.catalog.pools())
    pool.latency.observe(8, 0.001)
    warm = caller.predict(0)
    assert victim.echo() == [0]
    assert result(warm) == [0]
    deadly = caller.predict(666)
    assert victim.next()[1][:, 0].tolist() == [666]
    ready = caller.predict(1)
    assert victim.next()[1][:, 0].tolist() == [1], "sent although the one before is not answered"
    waiting = caller.predict(2)
    caller.wait_for_queue(1)
    victim.die()
    caller.wait_for_queue(3)
    second = replicas()
    gateway.serve(second, generation=2, max_batch=8)
    assert second.next()[1][:, 0].tolist() == [666], "alone, for a replica died with it"
    assert sorted(second.next()[1][:, 0].tolist()) == [1, 2]
    second.die()
    third = replicas()
    gateway.serve(third, generation=3, max_batch=8)
    assert sorted(third.echo()) == [1, 2], "they were not begun when the replica died"
    assert error(deadly)[0] == 500
    assert [result(asked) for asked in (ready, waiting)] == [[1], [2]]


def test_long_batches_are_not_sent_ahead(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=8)
    pool = next(gateway.gateway.catalog.pools())
    for _ in range(100):
        pool.latency.observe(8, 0.1)
    warm = caller.predict(0)
    assert replica.echo() == [0]
    assert result(warm) == [0]
    first = caller.predict(1)
    batch, x = replica.next()
    second = caller.predict(2)
    caller.wait_for_queue(1)
    assert replica.idle, "another replica may be free before this one is"
    replica.answer(batch, x[:, 0])
    assert replica.echo() == [2]
    assert [result(asked) for asked in (first, second)] == [[1], [2]]


def test_a_bad_instance_fails_only_its_own_request(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(state="LOADING")
    good = caller.predict(1)
    caller.wait_for_queue(1)
    bad = caller.predict(2, 3)
    caller.wait_for_queue(3)
    gateway.serve(replica, generation=2)
    batch, x = replica.next()
    replica.answer(batch, x[:, 0], [wire.Failure(2, True, "it is no image")])
    assert result(good) == [1]
    assert error(bad) == (400, "Instance 1: it is no image")


def test_a_fault_on_one_answer_fails_only_its_own_request(
    gateway: GatewayThread, caller: Caller, replicas: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(outputs: Any, *, columns: bool) -> bytes:
        (values,) = outputs.values()
        if values[0] == 2:
            raise MemoryError
        return render_predictions(outputs, columns=columns)

    monkeypatch.setattr(tensorflow_rest, "render_predictions", render)
    replica = replicas()
    gateway.serve(state="LOADING")
    asked = [caller.predict(1), caller.predict(2), caller.predict(3)]
    caller.wait_for_queue(3)
    gateway.serve(replica, generation=2)
    replica.echo()
    statuses = [asking.result(PATIENCE).status_code for asking in asked]
    assert statuses == [200, 500, 200]
    again = caller.predict(4)
    replica.echo()
    assert result(again) == [4], "the replica is not lost"


def test_requests_that_wait_too_long_or_are_too_many_are_told_to_come_back(
    gateway: GatewayThread, caller: Caller
) -> None:
    gateway.serve(state="LOADING", max_queue=2)
    caller.predict(1, 2)
    caller.wait_for_queue(2)
    refused = caller.predict(3).result(PATIENCE)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "2 instances wait" in refused.json()["error"]
    gateway.apply(routes(model("late", [], state="LOADING", timeout=0.3), generation=2))
    late = caller.predict(3, model="late").result(PATIENCE)
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert "No replica of model 'late' was free within 0.3 s" in late.json()["error"]


def test_a_replica_that_does_not_answer_costs_a_504(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, timeout=0.3)
    asked = caller.predict(1)
    batch, _ = replica.next()
    assert error(asked)[0] == 504
    replica.answer(batch, [1])
    again = caller.predict(2)
    assert replica.echo() == [2], "a late answer frees the replica and reaches nobody"
    assert result(again) == [2]


def test_a_caller_that_went_away_costs_no_prediction(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    gateway.serve(state="LOADING")
    asked = caller.predict(2)
    caller.wait_for_queue(1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{caller.url}/v1/models/m:predict", json={"instances": [[1, 0]]}, timeout=0.3)
    replica = replicas()
    gateway.serve(replica, generation=2)
    assert replica.echo() == [2]
    assert result(asked) == [2]


def test_a_new_version_takes_over_while_the_old_one_finishes(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    old, new = replicas(), replicas()
    gateway.serve(old)
    assert gateway.settled.get(timeout=PATIENCE) == 1
    in_hand = caller.predict(1)
    batch, _ = old.next()
    queued = caller.predict(2)
    caller.wait_for_queue(1)
    one = model("m", [old], state="UNLOADING").versions
    two = model("m", [new], version=2)
    both = model("m", [], version=2).__class__(name="m", default=2, versions=one + two.versions)
    gateway.apply(routes(both, generation=2))
    later = caller.predict(3)
    assert new.echo() == [3]
    assert gateway.settled.empty(), "the old version still holds requests"
    assert "has no version 1" in error(caller._pool.submit(
        caller.post, "/v1/models/m/versions/1:predict", {"instances": [[1, 1]]}))[1]  # fmt: skip
    old.answer(batch, [-1])
    batch, _ = old.next()
    old.answer(batch, [-2])
    assert gateway.settled.get(timeout=PATIENCE) == 2
    assert sorted(result(future)[0] for future in (in_hand, queued)) == [-2, -1]
    assert result(later) == [3]


def test_a_version_that_failed_to_start_refuses_what_waited_for_it(gateway: GatewayThread, caller: Caller) -> None:
    gateway.serve(state="LOADING")
    asked = caller.predict(1)
    caller.wait_for_queue(1)
    gateway.serve(state="END", error="the file is damaged", default=None, generation=2)
    status, message = error(asked)
    assert status == 503
    assert "the file is damaged" in message
    assert error(caller.predict(1))[0] == 404


def test_old_routes_do_not_replace_newer_ones(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, generation=5)
    assert gateway.settled.get(timeout=PATIENCE) == 5
    gateway.apply(routes(generation=4))
    asked = caller.predict(1)
    assert replica.echo() == [1]
    assert result(asked) == [1]


def test_an_ensemble_answers_with_the_mean_of_its_members(
    gateway: GatewayThread, caller: Caller, replicas: Make
) -> None:
    one, two = replicas(), replicas()
    ensemble = EnsembleRoute(name="both", members=("one", "two"))
    gateway.apply(routes(model("one", [one]), model("two", [two], version=4), ensembles=[ensemble]))
    caller.wait_ready()
    asked = caller.predict(1, 2, model="both")
    first, x = one.next()
    second, same = two.next()
    assert x.tolist() == same.tolist() == [[1, 0], [2, 0]]
    two.answer(second, [0.5, 1])
    one.answer(first, [1, 4])
    assert result(asked) == [0.75, 2.5]
    failing = caller.predict(3, model="both")
    first, second = one.next()[0], two.next()[0]
    one.answer(first, [1])
    two.answer(second, [1], [wire.Failure(0, False, "it broke")])
    assert error(failing) == (500, "Instance 0: it broke")
    assert caller.get("/v1/models/both").json()["model_version_status"][0]["state"] == "AVAILABLE"
    assert caller.post("/v1/models/both/versions/1:predict", {"instances": [[1, 2]]}).status_code == 404


def test_what_is_served_can_be_asked(gateway: GatewayThread, caller: Caller, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica)
    caller.wait_ready()
    assert caller.get("/v1/models/m").json() == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert caller.get("/v1/models/m/versions/1").status_code == 200
    assert caller.get("/v1/models/m/metadata").json()["model_spec"]["version"] == "1"
    assert caller.get("/v1/models").json()["models"] == [
        {
            "name": "m",
            "default": 1,
            "versions": [{"version": 1, "state": "AVAILABLE", "replicas": 1}],
            "labels": {},
            "ready": True,
        }
    ]
    asked = caller.predict(1, 2)
    replica.echo()
    result(asked)
    counted = caller.waiting()
    assert counted['ganglion_requests_total{model="m",version="1",status="200"}'] == 1
    assert counted['ganglion_instances_total{model="m",version="1"}'] == 2


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "nothing at '/nothing'"),
        ("GET", "/v1/models/mm", 404, "Did you mean 'm'"),
        ("GET", "/v1/models/m/versions/7", 404, "no version 7; it has: 1"),
        ("GET", "/v1/models/..%2F..%2Fetc%2Fpasswd", 404, "no model"),
        ("POST", "/v1/models/m/versions/7:predict", 404, "no version 7; it has: 1"),
        ("GET", "/v1/models/m:predict", 405, "allowed: POST"),
        ("DELETE", "/v1/models/m", 405, "allowed: GET, HEAD"),
        ("POST", "/v1/models/m:predict", 400, "not JSON"),
    ],
)
def test_mistakes_are_explained(
    gateway: GatewayThread, caller: Caller, replicas: Make, method: str, path: str, status: int, message: str
) -> None:
    gateway.serve(replicas())
    caller.wait_ready()
    response = caller.client.request(method, path)
    assert response.status_code == status
    assert message in response.json()["error"]
    assert (response.headers.get("allow") is not None) == (status == 405)
