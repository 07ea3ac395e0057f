"""Replicas that follow the load, end to end: real processes of the local backend, real sockets, real packages."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_samples import expected, pixels, write_classifier, write_lookup, write_slow
from watched_supervisor import PATIENCE, wait_until

from ganglion.artifacts.package import write_package
from ganglion.core.errors import ModelError, UserError
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Task
from ganglion.execution.supervisor import Supervisor
from ganglion.serving import version_run
from ganglion.serving.client import Client, ServiceError
from ganglion.serving.controller import ModelServer
from ganglion.serving.options import ServingOptions
from ganglion.serving.repository import ModelRepository

SMALL = Resources(cpu=0.1)
CORES = 1
SHORT = {
    "stable_window": 1.2,
    "panic_window": 1.0,
    "scale_down_delay": 0.3,
    "scale_to_zero_grace": 0.3,
    "resources": SMALL,
}


@pytest.fixture
def slow(models: ModelRepository, tmp_path: Path) -> str:
    """A model that takes some ten milliseconds for an answer."""
    write_slow(tmp_path / "slow")
    name = f"slow-{len(models.names())}"
    models.publish(name, tmp_path / "slow")
    return name


@pytest.fixture
def quick(models: ModelRepository, classifier: Path) -> str:
    name = f"quick-{len(models.names())}"
    models.publish(name, classifier)
    return name


def elastic(**fields: Any) -> ServingOptions:
    return ServingOptions(**{**SHORT, **fields})


def shown(server: ModelServer, model: str) -> dict[str, Any]:
    """The state of the newest version."""
    versions = server.status()["models"][model]["versions"]
    found: dict[str, Any] = versions[max(versions)]
    return found


class Flight:
    """Requests kept in flight until told to stop."""

    def __init__(self, url: str, model: str, count: int) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._url = f"{url}/v1/models/{model}:predict"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while not self._over.is_set():
                response = client.post(self._url, json={"instances": [[2.0]]})
                if response.status_code == 200 and response.json() == {"predictions": [[2.0]]}:
                    self.answers += 1
                else:
                    self.failures.append(response.text)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_replicas_follow_the_requests_in_flight(server: ModelServer, slow: str) -> None:
    server.deploy(slow, options=elastic(scale_metric="concurrency", scale_target=1, container_concurrency=1))
    assert shown(server, slow)["replicas"] == 1
    flight = Flight(server.url, slow, 5)
    wait_until(lambda: shown(server, slow)["ready"] == 5)
    enough = flight.answers + 50
    wait_until(lambda: flight.answers >= enough)
    assert shown(server, slow)["replicas"] <= 5, "as many as are in flight, no more"
    flight.stop()
    wait_until(lambda: shown(server, slow)["ready"] == 1)
    assert flight.failures == []


def test_requests_that_come_while_replicas_go_are_all_answered(server: ModelServer, slow: str) -> None:
    server.deploy(slow, options=elastic(min_replicas=5))
    flight = Flight(server.url, slow, 3)
    wait_until(lambda: flight.answers >= 10)
    server.deploy(slow, options=elastic(scale_target=100.0))
    wait_until(lambda: shown(server, slow)["replicas"] == 1)
    enough = flight.answers + 20
    wait_until(lambda: flight.answers >= enough)
    flight.stop()
    assert flight.failures == []


def burst(url: str, model: str, count: int, connections: int) -> list[tuple[int, list[float]]]:
    """Ask many at once; the statuses and the first predictions."""
    body = {"instances": pixels(1).tolist()}

    def ask(_number: int) -> list[tuple[int, list[float]]]:
        found = []
        with httpx.Client(timeout=PATIENCE) as client:
            for _ in range(count // connections):
                response = client.post(f"{url}/v1/models/{model}:predict", json=body)
                found.append((response.status_code, response.json().get("predictions", [[0.0] * 10])[0]))
        return found

    with ThreadPoolExecutor(connections) as pool:
        return [one for found in pool.map(ask, range(connections)) for one in found]


def at_zero(server: ModelServer, model: str) -> bool:
    """Whether it is served by no process."""
    state = shown(server, model)
    return (state["state"], state["replicas"], state["ready"], state["leaving"]) == ("AVAILABLE", 0, 0, 0)


def check_from_zero(server: ModelServer, model: str, count: int, connections: int) -> None:
    server.deploy(model, options=elastic(min_replicas=0, max_replicas=2))
    wait_until(lambda: at_zero(server, model))
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    answers = burst(server.url, model, count, connections)
    assert [status for status, _ in answers] == [200] * count
    wanted = np.repeat(expected(pixels(1), 0), count, axis=0)
    np.testing.assert_allclose([values for _, values in answers], wanted, atol=1e-6)


def test_a_burst_at_zero_replicas_is_answered_whole(server: ModelServer, quick: str) -> None:
    check_from_zero(server, quick, 192, connections=32)


@pytest.mark.soak
def test_a_burst_of_a_thousand_at_zero_replicas_is_answered_whole(server: ModelServer, quick: str) -> None:
    for _ in range(3):
        check_from_zero(server, quick, 1000, connections=100)


@pytest.mark.soak
def test_five_in_flight_for_half_a_minute_with_the_windows_as_they_are(server: ModelServer, slow: str) -> None:
    server.deploy(slow, options=ServingOptions(scale_metric="concurrency", scale_target=1, resources=SMALL))
    flight = Flight(server.url, slow, 5)
    wait_until(lambda: shown(server, slow)["ready"] == 5)
    time.sleep(30)  # the load that is tested
    assert shown(server, slow)["ready"] == 5
    flight.stop()
    wait_until(lambda: shown(server, slow)["ready"] == 1, 2 * PATIENCE)
    assert flight.failures == []


def test_a_start_from_zero_that_fails_is_told_and_tried_again(
    server: ModelServer, quick: str, models: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_run, "START_PAUSE", 1.0)
    server.deploy(quick, options=elastic(min_replicas=0, timeout=PATIENCE))
    wait_until(lambda: at_zero(server, quick))
    file = models.path(quick, 1) / "model.onnx"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with Client(server.url) as client:
        with pytest.raises(ServiceError, match=r"can be started: .*model\.onnx is damaged") as refused:
            client.predict(quick, pixels(1))
        assert refused.value.status == 503
        wait_until(lambda: at_zero(server, quick))  # it is not tried for ever
        file.write_bytes(whole)
        wait_until(lambda: shown(server, quick)["error"] == "")
        np.testing.assert_allclose(client.predict(quick, pixels(1)), expected(pixels(1), 0), atol=1e-6)


def test_where_there_is_no_room_it_goes_on_with_fewer_and_takes_more_when_there_is(
    server: ModelServer, supervisor: Supervisor, slow: str
) -> None:
    training = supervisor.submit(
        Task(id="training", entry=Entry(path="ganglion.testing.entries:wait_forever"), resources=Resources(cpu=0.7))
    )
    server.deploy(slow, options=elastic(scale_target=1, container_concurrency=1))
    flight = Flight(server.url, slow, 5)
    wait_until(lambda: (shown(server, slow)["replicas"], shown(server, slow)["ready"]) == (3, 2))
    wait_until(lambda: shown(server, slow)["waiting_for_room"] == 1)
    training.cancel()
    wait_until(lambda: shown(server, slow)["ready"] == 5)
    flight.stop()
    assert flight.failures == []


def test_a_new_version_of_an_elastic_model_begins_with_as_many_replicas(
    server: ModelServer, slow: str, models: ModelRepository, tmp_path: Path
) -> None:
    server.deploy(slow, options=elastic(scale_target=1, max_replicas=3, container_concurrency=1))
    flight = Flight(server.url, slow, 3)
    wait_until(lambda: shown(server, slow)["ready"] == 3)
    write_slow(tmp_path / "second", rounds=9)
    assert models.publish(slow, tmp_path / "second") == 2
    wait_until(lambda: server.status()["models"][slow]["default"] == 2)
    assert shown(server, slow)["replicas"] == 3
    flight.stop()
    assert flight.failures == []


def test_a_deployment_can_change_between_fixed_and_elastic(server: ModelServer, quick: str) -> None:
    server.deploy(quick, replicas=3, resources=SMALL)
    server.deploy(quick, options=elastic(max_replicas=2))
    wait_until(lambda: shown(server, quick)["ready"] == 1)
    server.deploy(quick, replicas=2, resources=SMALL)
    wait_until(lambda: shown(server, quick)["ready"] == 2)
    assert not server.status()["models"][quick]["elastic"]
    with pytest.raises(UserError, match="Give either options or replicas"):
        server.deploy(quick, replicas=2, options=elastic())


def test_a_model_that_cannot_start_is_not_deployed_at_zero(
    server: ModelServer, models: ModelRepository, tmp_path: Path
) -> None:
    signature = write_classifier(tmp_path / "classifier").signature
    write_lookup(tmp_path / "lookup")
    model = {"model.onnx": tmp_path / "lookup" / "model.onnx"}
    write_package(tmp_path / "wrong", runtime="onnx", signature=signature, files=model)
    models.publish("wrong", tmp_path / "wrong")
    with pytest.raises(ModelError, match=r"wrong:1 was not served.*signature's inputs"):
        server.deploy("wrong", options=elastic(min_replicas=0))
