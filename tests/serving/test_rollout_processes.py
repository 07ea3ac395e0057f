"""Versions that are tried, taken back and followed, end to end: real processes, real sockets, real packages."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_samples import expected, pixels, write_classifier, write_lookup, write_slow
from watched_supervisor import PATIENCE, Watched, wait_until

from ganglion.core.errors import ModelError, UserError
from ganglion.core.resources import Resources
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository
from ganglion.serving.rollout import Canary

SMALL = Resources(cpu=0.1)
CORES = 4
QUICK = Canary(percent=30, minimum_requests=30, step_seconds=0.1, latency_slack=0.2)


@pytest.fixture
def publish(models: ModelRepository, tmp_path: Path) -> Callable[..., str]:
    """Publish packages as versions 1, 2 and so on of a new model; returns its name."""

    def publish(write: Callable[..., Any], *arguments: Any, name: str = "", **more: Any) -> str:
        name = name or f"m{len(models.names())}"
        for number, argument in enumerate(arguments):
            folder = tmp_path / f"{name}-{len(models.versions(name))}-{number}"
            write(folder, argument, **more)
            models.publish(name, folder)
        return name

    return publish


Publish = Callable[..., str]


def shown(server: ModelServer, model: str) -> dict[str, Any]:
    found: dict[str, Any] = server.status()["models"][model]
    return found


class Callers:
    """Threads that ask for `body` until they are stopped, and what they got."""

    def __init__(self, server: ModelServer, model: str, body: Any, count: int = 3) -> None:
        self.statuses: Counter[int] = Counter()
        self.answers: list[Any] = []
        self._url = f"{server.url}/v1/models/{model}:predict"
        self._body = body
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while True:
                response = client.post(self._url, json={"instances": self._body})
                self.statuses[response.status_code] += 1
                self.answers.append(response.json().get("predictions"))
                if self._over.is_set():
                    return

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def version_of(prediction: Any, given: np.ndarray) -> int:
    """Which version answered; every row of the answer has to be of the same one."""
    for version in (1, 2):
        if np.allclose(prediction, expected(given, version - 1), atol=1e-5):
            return version
    raise AssertionError("rows of one answer are of different versions, or of none")


def test_a_canary_gets_its_part_of_the_requests_and_callers_with_a_key_stay(
    server: ModelServer, publish: Publish
) -> None:
    model = publish(write_classifier, 0, 1)
    server.deploy(model, 1, replicas=1, resources=SMALL)
    assert server.update(model, 2, canary=20) == 2
    given = pixels(40)  # more than a batch
    body = {"instances": given.tolist()}
    with httpx.Client(base_url=f"{server.url}/v1/models", timeout=PATIENCE) as client:

        def ask(path: str, key: str | None = None, content: Any = body, rows: np.ndarray = given) -> int:
            headers = {"Ganglion-Route-Key": key} if key is not None else {}
            response = client.post(f"/{path}:predict", json=content, headers=headers)
            assert response.status_code == 200, response.text
            return version_of(response.json()["predictions"], rows)

        one = pixels(1)
        single = {"instances": one.tolist()}
        assert Counter(ask(model) for _ in range(20)).keys() == {1, 2}
        counted = Counter(ask(model, content=single, rows=one) for _ in range(200))
        assert 32 <= counted[2] <= 48, "20 percent of 200"
        keys = [f"caller-{number}" for number in range(200)]
        chosen = {key: ask(model, key, single, one) for key in keys}
        assert {key: ask(model, key, single, one) for key in keys} == chosen
        assert 17 <= Counter(chosen.values())[2] <= 63, "20 percent of 200, within four standard deviations"
        server.update(model, 2, canary=60)
        more = {key: ask(model, key, single, one) for key in keys}
        assert all(more[key] == 2 for key in keys if chosen[key] == 2), "a greater part takes nobody back"
        assert 92 <= Counter(more.values())[2] <= 148
        assert {ask(f"{model}/versions/1", key, single, one) for key in keys[:20]} == {1}
        assert server.roll_back(model) == 1
        assert {ask(model, key, single, one) for key in keys[:40]} == {1}
    assert shown(server, model)["last_rollout"] == "Version 2 was rolled back: on request"


def test_a_canary_that_is_as_good_takes_over_step_by_step(server: ModelServer, publish: Publish) -> None:
    model = publish(write_classifier, 0, 1)
    server.deploy(model, 1, replicas=1, resources=SMALL)
    given = pixels(1)
    with Callers(server, model, given.tolist()) as callers:
        canary = Canary(percent=10, steps=(50, 100), minimum_requests=30, step_seconds=0.1, latency_slack=1.0)
        server.update(model, 2, canary=canary)
        wait_until(lambda: shown(server, model)["default"] == 2)
        enough = len(callers.answers) + 30
        wait_until(lambda: len(callers.answers) >= enough)
    assert callers.statuses.keys() == {200}
    versions = [version_of(answer, given) for answer in callers.answers]
    assert set(versions) == {1, 2}
    assert set(versions[-10:]) == {2}
    assert "took over" in shown(server, model)["last_rollout"]
    assert server.roll_back(model) == 1, "and there is a way back"
    assert shown(server, model)["policy"] == "version 1"


def test_a_canary_that_fails_is_rolled_back_and_not_tried_again(
    server: ModelServer, publish: Publish, models: ModelRepository
) -> None:
    model = publish(write_lookup, 4, 2)  # the second one fails beyond 1
    server.deploy(model, 1, replicas=1, resources=SMALL)
    with Callers(server, model, [3]) as callers:
        wait_until(lambda: len(callers.answers) >= 50)
        assert callers.statuses.keys() == {200}
        server.update(model, canary=QUICK)
        wait_until(lambda: shown(server, model)["canary"] is None)
        settled = len(callers.answers) + 60
        wait_until(lambda: len(callers.answers) >= settled)
    assert callers.statuses.keys() == {200, 500}
    assert set(map(str, callers.answers)) == {"[3.5]", "None"}
    assert callers.answers[-20:] == [[3.5]] * 20
    state = shown(server, model)
    assert state["default"] == 1
    assert "Version 2 was rolled back" in state["last_rollout"]
    assert "answers were errors" in state["last_rollout"]


def test_a_canary_that_is_slow_is_rolled_back(server: ModelServer, publish: Publish) -> None:
    model = publish(write_slow, 1, 30)
    server.deploy(model, 1, replicas=1, resources=SMALL)
    with Callers(server, model, [[1.0]], count=2) as callers:
        patient = Canary(percent=50, minimum_requests=20, step_seconds=0.1, latency_factor=3.0, latency_slack=0.0)
        server.update(model, 2, canary=patient)
        wait_until(lambda: shown(server, model)["canary"] is None)
    assert callers.statuses.keys() == {200}
    assert "percent of its answers took up to" in shown(server, model)["last_rollout"]
    assert shown(server, model)["default"] == 1


def test_a_canary_whose_replicas_die_is_rolled_back_and_costs_no_request(
    server: ModelServer, supervisor: Watched, publish: Publish
) -> None:
    model = publish(write_classifier, 0, 1)
    server.deploy(model, 1, replicas=1, resources=SMALL)
    with Callers(server, model, pixels(1).tolist()) as callers:
        server.update(model, 2, canary=Canary(percent=50, minimum_requests=10**6, most_deaths=0))
        enough = len(callers.answers) + 20
        wait_until(lambda: len(callers.answers) >= enough)
        os.kill(supervisor.wait_for_pid(f"serve-{model}-2"), signal.SIGKILL)
        wait_until(lambda: shown(server, model)["canary"] is None)
        enough = len(callers.answers) + 20
        wait_until(lambda: len(callers.answers) >= enough)
    assert callers.statuses.keys() == {200}
    assert "1 of its replicas ended by themselves" in shown(server, model)["last_rollout"]


def test_what_answers_its_checks_differently_is_refused_and_the_old_version_goes_on(
    server: ModelServer, publish: Publish
) -> None:
    model = publish(write_classifier, 0, checked_as=0)
    server.deploy(model, 1, replicas=1, resources=SMALL)
    publish(write_classifier, 1, name=model, checked_as=0)
    for canary in (None, 50):
        with pytest.raises(ModelError, match="does not answer as it did when it was packaged: output 'probabilities'"):
            server.update(model, 2, canary=canary)
        assert shown(server, model)["default"] == 1
        assert shown(server, model)["canary"] is None
    given = pixels(2)
    answer = httpx.post(f"{server.url}/v1/models/{model}:predict", json={"instances": given.tolist()})
    assert version_of(answer.json()["predictions"], given) == 1


def test_what_cannot_be_tried_is_refused(server: ModelServer, publish: Publish) -> None:
    model = publish(write_classifier, 0)
    publish(write_lookup, 4, name=model)
    with pytest.raises(UserError, match="without a canary"):
        server.deploy(model, 1, canary=10, replicas=1, resources=SMALL)
    server.deploy(model, 1, replicas=1, resources=SMALL)
    with pytest.raises(UserError, match="answers already"):
        server.update(model, 1, canary=10)
    with pytest.raises(ModelError, match="takes other inputs"):
        server.update(model, 2, canary=10)
    with pytest.raises(UserError, match="nothing to go back to"):
        server.roll_back(model)


def test_all_versions_are_served_by_number_and_the_newest_answers(
    server: ModelServer, publish: Publish, models: ModelRepository
) -> None:
    model = publish(write_classifier, 0, 1)
    server.deploy(model, policy="all", replicas=1, resources=SMALL)
    given = pixels(1)

    def ask(path: str) -> Any:
        answer = httpx.post(f"{server.url}/v1/models/{model}{path}:predict", json={"instances": given.tolist()})
        return answer.json().get("predictions")

    wait_until(lambda: ask("/versions/1") is not None)
    assert [version_of(ask(path), given) for path in ("/versions/1", "/versions/2", "")] == [1, 2, 2]
    publish(write_classifier, 0, name=model)
    wait_until(lambda: shown(server, model)["default"] == 3)
    assert [version_of(ask(path), given) for path in ("/versions/2", "/versions/3", "")] == [2, 1, 1]


def test_an_alias_is_followed_when_it_is_moved(server: ModelServer, publish: Publish, models: ModelRepository) -> None:
    model = publish(write_classifier, 0, 1)
    models.set_alias(model, "champion", 1)
    assert server.deploy(model, "champion", replicas=1, resources=SMALL) == 1
    given = pixels(1)
    with Callers(server, model, given.tolist()) as callers:
        for version in (2, 1):
            models.set_alias(model, "champion", version)
            wait_until(lambda version=version: shown(server, model)["default"] == version)  # type: ignore[misc]
    assert callers.statuses.keys() == {200}
    assert {version_of(answer, given) for answer in callers.answers} == {1, 2}
    assert shown(server, model)["policy"] == "alias champion"


def test_the_number_of_replicas_is_changed_while_requests_come(server: ModelServer, publish: Publish) -> None:
    model = publish(write_classifier, 0)
    server.deploy(model, replicas=1, resources=SMALL)
    with Callers(server, model, pixels(1).tolist()) as callers:
        server.scale(model, 3)
        assert shown(server, model)["versions"][1]["ready"] == 3
        server.scale(model, 1)
        assert shown(server, model)["versions"][1]["ready"] == 1
    assert callers.statuses.keys() == {200}
