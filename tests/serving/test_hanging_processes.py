"""Real replicas that do not come back: others take over within seconds, and the requests that they were at are kept."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from watched_supervisor import Watched, wait_until

from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import ModelError
from ganglion.core.events import ExitKind, MemberExited
from ganglion.core.resources import Resources
from ganglion.serving import services
from ganglion.serving.controller import QUARANTINE, ModelServer
from ganglion.serving.options import ServingOptions
from ganglion.serving.repository import ModelRepository

SMALL = Resources(cpu=0.1)
PATIENCE = 60.0
SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", (-1, 1)),), outputs=(TensorSpec("y", "float32", (-1, 1)),))
PREDICTOR = """
import time

class Predictor:
    def load(self, folder):
        pass

    def predict(self, batch):
        x = batch["x"]
        for number in x[:, 0]:
            if number == 666:
                while True:
                    time.sleep(60)
            if number < 0:
                time.sleep(-float(number))
        return {"y": x * 2}
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(LocalBackend(tmp_path / "g", LocalConfig(cpu=4)), tmp_path / "g")
    yield watched
    watched.close()


@pytest.fixture
def publish(tmp_path: Path, repository: ModelRepository) -> Callable[[str], None]:
    def publish(code: str) -> None:
        source = tmp_path / "predictor.py"
        source.write_text(code)
        files = {"predictor.py": source}
        write_package(
            tmp_path / "package", runtime="python", signature=SIGNATURE, files=files, entry="predictor:Predictor"
        )
        repository.publish("some", tmp_path / "package")

    return publish


class Asker:
    """Asks the model `some` from threads; each answer is that of its own request."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self._url, self._pool = url, pool

    def __call__(self, number: float, within: float = 20.0) -> Future[httpx.Response]:
        return self._pool.submit(self._ask, number, within)

    def _ask(self, number: float, within: float) -> httpx.Response:
        answer = httpx.post(
            f"{self._url}/v1/models/some:predict",
            json={"instances": [[number]]},
            headers={"x-request-timeout-ms": str(int(1000 * within))},
            timeout=PATIENCE,
        )
        if answer.status_code == 200:
            assert answer.json() == {"predictions": [[2 * number]]}
        return answer

    def metrics(self) -> str:
        return httpx.get(f"{self._url}/metrics").text

    def until_right(self, numbers: Iterator[int]) -> float:
        """Seconds until a request with a short deadline is answered."""
        began = time.monotonic()
        while self(next(numbers), within=1.0).result().status_code != 200:
            assert time.monotonic() - began < PATIENCE
        return time.monotonic() - began


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def ends(supervisor: Watched, job: str = "serve-some") -> list[ExitKind]:
    return [event.exit.kind for event in supervisor.seen if isinstance(event, MemberExited) and job in event.job]


def test_poison_ends_in_quarantine_after_two_replicas_and_a_slow_request_that_is_wanted_is_answered(
    supervisor: Watched, repository: ModelRepository, publish: Callable[[str], None], pool: ThreadPoolExecutor
) -> None:
    publish(PREDICTOR)
    server = ModelServer(supervisor, repository, gateway=SMALL)
    try:
        server.deploy("some", options=ServingOptions(min_replicas=3, max_replicas=3, resources=SMALL, timeout=8.0))
        ask = Asker(server.url, pool)
        assert {ask(number).result().status_code for number in range(1, 30)} == {200}
        poison = ask(666, within=4.0)
        wait_until(lambda: 'ganglion_retries_total{model="some"} 1' in ask.metrics())
        slow = ask(-6.5)  # at the third; nearly as long as a replica may
        assert poison.result().status_code == 504, poison.result().text
        behind = ask(1, within=0.6).result()
        assert behind.status_code == 503
        assert "has been at one batch for " in behind.json()["error"]
        assert ask.until_right(iter(range(1000, 10**6))) < 15.0
        kept = repository.root / QUARANTINE
        wait_until(lambda: kept.exists() and len(list(kept.iterdir())) == 1)
        with np.load(next(kept.iterdir())) as content:
            assert content["x"].tolist() == [[666.0]]
            assert "made 2 replicas hang" in json.loads(str(content["about"]))["reason"]
        assert (slow.result().status_code, slow.result().json()) == (200, {"predictions": [[-13.0]]})
        wait_until(lambda: len(supervisor.pids("serve-some")) == 3)
        assert ends(supervisor) == [ExitKind.LOST, ExitKind.LOST]
        assert 'ganglion_replicas_hanging_total{model="some",version="1"} 2' in ask.metrics()
        shown = server.status()["models"]["some"]["versions"][1]["hung"]
        assert shown.startswith("2 replicas were replaced for hanging; last, replica-")
    finally:
        server.close()


@pytest.mark.soak
def test_a_gateway_blames_no_request_of_its_own_for_one_of_another(
    supervisor: Watched, repository: ModelRepository, publish: Callable[[str], None], pool: ThreadPoolExecutor
) -> None:
    publish(PREDICTOR)
    server = ModelServer(supervisor, repository, gateway=SMALL, gateways=2)
    try:
        server.deploy("some", options=ServingOptions(min_replicas=2, max_replicas=2, resources=SMALL, timeout=8.0))
        ask = Asker(server.url, pool)
        assert {ask(number).result().status_code for number in range(1, 60)} == {200}
        for _ in range(3):
            slow = ask(-6.5)
            poison = ask(666, within=2.0)
            others = [ask(number, within=1.0) for number in range(1, 9)]
            assert poison.result().status_code in (503, 504), "one sends it behind what is slow of another"
            assert {asked.result().status_code for asked in others} <= {200, 503, 504}
            assert slow.result().status_code == 200, slow.result().text
            ask.until_right(iter(range(1000, 10**6)))
        answers = Counter(asked.result().status_code for asked in [ask(number) for number in range(1000, 1100)])
        assert answers == {200: 100}
        assert set(ends(supervisor)) == {ExitKind.LOST}
        kept = repository.root / QUARANTINE
        for file in kept.iterdir() if kept.exists() else ():
            with np.load(file) as content:
                assert content["x"].tolist() == [[666.0]], "an innocent request was kept"
    finally:
        server.close()


def test_a_replica_that_is_stopped_for_good_is_replaced_and_its_requests_are_answered(
    supervisor: Watched, repository: ModelRepository, publish: Callable[[str], None], pool: ThreadPoolExecutor
) -> None:
    publish(PREDICTOR)
    server = ModelServer(supervisor, repository, gateway=SMALL)
    try:
        server.deploy("some", replicas=1, resources=SMALL)
        ask = Asker(server.url, pool)
        assert {ask(number).result().status_code for number in range(1, 30)} == {200}
        (stopped,) = supervisor.pids("serve-some").values()
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        answers = [ask(number, within=25.0) for number in range(1, 9)]
        assert [asked.result().status_code for asked in answers] == [200] * 8, answers[0].result().text
        assert time.monotonic() - began < 15.0, "nobody had to wait for their deadlines"
        assert ends(supervisor) == [ExitKind.LOST]
        assert not (repository.root / QUARANTINE).exists(), "no request is the cause"
    finally:
        server.close()


def test_a_replica_that_does_not_come_back_from_its_load_is_given_up(
    supervisor: Watched, repository: ModelRepository, publish: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_READINESS_TIMEOUT", 1.0)
    monkeypatch.setattr(services, "_REPLICA_GRACE", 0.1)
    publish(PREDICTOR.replace("pass", "time.sleep(1000)"))
    server = ModelServer(supervisor, repository, gateway=SMALL)
    try:
        with pytest.raises(ModelError, match="its time was up"):
            server.deploy("some", replicas=1, resources=SMALL)
        assert set(ends(supervisor)) == {ExitKind.TIMED_OUT}
    finally:
        server.close()
