"""End to end: real processes of the local backend, real sockets, real packages."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_samples import encoded, expected, pixels, write_classifier, write_lookup
from watched_supervisor import Watched

from ganglion.artifacts.package import write_package
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import ControlError, ModelError, NotFoundError, SpecError, UserError
from ganglion.core.events import Event, MemberExited, MemberReady
from ganglion.core.resources import Resources
from ganglion.serving.client import Client, ServiceError
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository

SMALL = Resources(cpu=0.1)
PATIENCE = 60.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(LocalBackend(tmp_path / "g", LocalConfig(cpu=4)), tmp_path / "g")
    yield watched
    watched.close()


@pytest.fixture
def server(supervisor: Watched, repository: ModelRepository) -> Iterator[ModelServer]:
    model_server = ModelServer(supervisor, repository, gateway=SMALL)
    yield model_server
    model_server.close()


@pytest.fixture
def publish(repository: ModelRepository, tmp_path: Path) -> Callable[..., int]:
    def publish(name: str, seed: int = 0) -> int:
        folder = tmp_path / f"{name}-{seed}"
        if not folder.exists():
            write_classifier(folder, seed)
        return repository.publish(name, folder)

    return publish


Publish = Callable[..., int]


def storm(url: str, threads: int, stop: Callable[[int], bool]) -> tuple[list[Any], list[str]]:
    """Ask from many threads until `stop(answers so far)`; returns the answers and the failures."""
    body = {"instances": pixels(1).tolist()}
    answers: list[Any] = []
    failures: list[str] = []

    def ask(_number: int) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            while not stop(len(answers)):
                try:
                    response = client.post("/v1/models/fashion:predict", json=body)
                except httpx.HTTPError as error:
                    failures.append(repr(error))
                    continue
                if response.status_code == 200:
                    answers.append(response.json()["predictions"][0])
                else:
                    failures.append(response.text)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(threads)))
    return answers, failures


def test_a_published_model_answers_by_every_form_of_the_protocol(
    server: ModelServer, publish: Publish, tmp_path: Path
) -> None:
    publish("fashion")
    assert server.deploy("fashion", replicas=2, resources=SMALL) == 1
    given = pixels(3)
    wanted = expected(given, 0)
    path = tmp_path / "image.png"
    path.write_bytes(encoded(given[0]))
    with Client(server.url) as client:
        np.testing.assert_allclose(client.predict("fashion", given), wanted, atol=1e-6)
        np.testing.assert_allclose(client.predict("fashion", images=[path, encoded(given[1])]), wanted[:2], atol=1e-6)
        assert client.status("fashion")[0]["state"] == "AVAILABLE"
        assert client.models()[0]["versions"] == [{"version": 1, "state": "AVAILABLE", "replicas": 2}]
        with pytest.raises(ServiceError, match="Did you mean 'fashion'"):
            client.predict("fashoin", given)
        with pytest.raises(ServiceError, match="Instance 1: 8 bytes given that are not a complete PNG"):
            client.predict("fashion", images=[path, b"nonsense"])
    curl = {"instances": [{"image_bytes": {"b64": b64encode(path.read_bytes()).decode()}}]}
    predictions = httpx.post(f"{server.url}/v1/models/fashion/versions/1:predict", json=curl).json()["predictions"]
    assert sum(predictions[0]) == pytest.approx(1, abs=1e-5)


def test_killed_replicas_cost_no_request(server: ModelServer, supervisor: Watched, publish: Publish) -> None:
    publish("fashion")
    server.deploy("fashion", replicas=2, resources=SMALL)
    killed: list[int] = []
    lock = threading.Lock()

    def stop(count: int) -> bool:
        with lock:
            if len(killed) < 3 and count >= 500 * (len(killed) + 1):
                pids = supervisor.pids("serve-fashion-1")
                if len(pids) == 2:
                    killed.append(min(pids.values()))
                    os.kill(killed[-1], signal.SIGKILL)
            return count >= 2000 and len(killed) >= 1

    answers, failures = storm(server.url, 8, stop)
    assert failures == []
    assert len(answers) >= 2000
    assert killed, "no replica was killed"
    np.testing.assert_allclose(answers, np.repeat(expected(pixels(1), 0), len(answers), axis=0), atol=1e-6)
    supervisor.wait_for(lambda _events: len(supervisor.pids("serve-fashion-1")) == 2)


def test_a_rolling_update_under_load_loses_no_request(server: ModelServer, publish: Publish) -> None:
    publish("fashion", 0)
    publish("fashion", 1)
    server.deploy("fashion", 1, replicas=2, resources=SMALL)
    begin = threading.Event()
    after: list[int] = []
    seen: list[int] = [0]

    def update() -> None:
        begin.wait(PATIENCE)
        for version in (2, 1, 2):
            server.update("fashion", version)
        after.append(seen[0])

    def stop(count: int) -> bool:
        seen[0] = count
        if count >= 100:
            begin.set()
        return updates.done() and count >= max(after, default=0) + 200

    with ThreadPoolExecutor(1) as pool:
        updates = pool.submit(update)
        answers, failures = storm(server.url, 4, stop)
        updates.result(PATIENCE)
    assert failures == []
    by_version = [expected(pixels(1), seed)[0] for seed in (0, 1)]
    which = [int(np.argmin([np.abs(np.array(answer) - one).max() for one in by_version])) for answer in answers]
    for answer, version in zip(answers, which, strict=True):
        np.testing.assert_allclose(answer, by_version[version], atol=1e-6)
    assert set(which[:50]) == {0}
    assert set(which[-100:]) == {1}, "once update has returned only the new version answers"
    assert [state["state"] for state in server.status()["models"]["fashion"]["versions"].values()][-1] == "AVAILABLE"


def test_the_newest_complete_version_is_picked_up_by_itself(
    server: ModelServer, supervisor: Watched, publish: Publish, repository: ModelRepository
) -> None:
    publish("fashion", 0)
    publish("pinned", 0)
    server.deploy("fashion", replicas=1, resources=SMALL)
    server.deploy("pinned", 1, replicas=1, resources=SMALL)
    half = repository.root / "fashion" / "2"
    half.mkdir()
    shutil.copy(repository.path("fashion", 1) / "model.onnx", half)
    publish("pinned", 1)
    assert publish("fashion", 1) == 3
    supervisor.wait_for(lambda events: _ready(events, "serve-fashion-3"))
    supervisor.wait_for(lambda events: any(isinstance(e, MemberExited) and "fashion-1" in e.job for e in events))
    with Client(server.url) as client:
        np.testing.assert_allclose(client.predict("fashion", pixels(2)), expected(pixels(2), 1), atol=1e-6)
        assert client.status("fashion")[0]["version"] == "3"
        np.testing.assert_allclose(client.predict("pinned", pixels(2)), expected(pixels(2), 0), atol=1e-6)
    assert not any("serve-fashion-2" in event.job for event in supervisor.seen), "half written"
    shutil.copy(repository.path("fashion", 1) / "package.json", half)
    assert repository.versions("fashion") == (1, 2, 3)
    assert server.status()["models"]["fashion"]["default"] == 3


def _ready(events: list[Event], job: str) -> bool:
    return any(isinstance(event, MemberReady) and event.job.startswith(job) for event in events)


def test_an_ensemble_is_the_mean_of_its_members(server: ModelServer, publish: Publish) -> None:
    publish("plain", 0)
    publish("dropout", 1)
    for name in ("plain", "dropout"):
        server.deploy(name, replicas=1, resources=SMALL)
    server.combine("fashion", ["plain", "dropout"])
    given = pixels(40)
    with Client(server.url) as client:
        single = [np.array(client.predict(name, given)) for name in ("plain", "dropout")]
        np.testing.assert_allclose(client.predict("fashion", given), np.mean(single, axis=0), atol=1e-6)
        images = [encoded(one) for one in given[:3]]
        np.testing.assert_allclose(client.predict("fashion", images=images), np.mean(single, axis=0)[:3], atol=1e-6)
        with pytest.raises(UserError, match="member of the ensemble fashion"):
            server.undeploy("plain")
        server.undeploy("fashion")
        with pytest.raises(ServiceError, match="no model 'fashion'"):
            client.predict("fashion", given)
        server.undeploy("plain")
        assert [model["name"] for model in client.models()] == ["dropout"]


def test_a_gateway_that_dies_comes_back_at_the_same_address(
    server: ModelServer, supervisor: Watched, publish: Publish
) -> None:
    publish("fashion")
    server.deploy("fashion", replicas=1, resources=SMALL)
    url = server.url
    first = supervisor.wait_for_pid("gateway")
    os.kill(first, signal.SIGKILL)
    supervisor.wait_for_pid("gateway", other_than=first)
    server.combine("both", ["fashion"])
    with Client(url) as client:
        np.testing.assert_allclose(client.predict("both", pixels(1)), expected(pixels(1), 0), atol=1e-6)


def test_a_version_that_cannot_start_leaves_the_old_one_in_charge(
    server: ModelServer, publish: Publish, repository: ModelRepository, tmp_path: Path
) -> None:
    publish("fashion", 0)
    server.deploy("fashion", replicas=1, resources=SMALL)
    manifest = repository.manifest("fashion", 1)
    write_lookup(tmp_path / "lookup")
    wrong = tmp_path / "wrong"
    write_package(
        wrong,
        runtime="onnx",
        signature=manifest.signature,
        files={"model.onnx": tmp_path / "lookup" / "model.onnx"},
        image=manifest.image,
    )
    repository.publish("fashion", wrong)
    with pytest.raises(ModelError, match=r"\w+:2 was not served.*signature's inputs"):
        server.update("fashion", 2)
    with Client(server.url) as client:
        np.testing.assert_allclose(client.predict("fashion", pixels(1)), expected(pixels(1), 0), atol=1e-6)
        states = {entry["version"]: entry for entry in client.status("fashion")}
        assert states["1"]["state"] == "AVAILABLE"


def test_what_cannot_be_served_is_refused_at_once(
    server: ModelServer, supervisor: Watched, publish: Publish, repository: ModelRepository
) -> None:
    publish("fashion")
    before = len([event for event in supervisor.seen if event.job.startswith("serve")])
    with pytest.raises(NotFoundError, match="Did you mean 'fashion'"):
        server.deploy("fashoin")
    with pytest.raises(NotFoundError, match="no version 7"):
        server.deploy("fashion", 7)
    with pytest.raises(UserError, match="at least one"):
        server.deploy("fashion", replicas=0)
    with pytest.raises(SpecError):
        server.deploy("fashion", resources=Resources(cpu=100))
    with pytest.raises(NotFoundError, match="is not served"):
        server.combine("both", ["fashion"])
    with pytest.raises(NotFoundError, match="is not served"):
        server.undeploy("fashion")
    assert server.status()["models"] == {}
    assert len([event for event in supervisor.seen if event.job.startswith("serve")]) == before
    taken = int(server.url.rpartition(":")[2])
    supervisor.wait_for(lambda events: _ready(events, "gateway"))
    with pytest.raises(UserError, match="Give another port"):
        ModelServer(supervisor, repository, port=taken)


def test_closing_answers_what_is_in_hand_and_leaves_nothing(
    supervisor: Watched, repository: ModelRepository, publish: Publish
) -> None:
    publish("fashion")
    server = ModelServer(supervisor, repository, gateway=SMALL)
    server.deploy("fashion", replicas=2, resources=SMALL)
    body = b'{"instances": %s}' % str(pixels(1).tolist()).encode()
    port = int(server.url.rpartition(":")[2])
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        head = b"POST /v1/models/fashion:predict HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
        assert connection.recv(2**16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        closer = threading.Thread(target=server.close)
        closer.start()
        connection.sendall(body)
        answer = b""
        while data := connection.recv(2**16):
            answer += data
        closer.join(PATIENCE)
    assert answer.startswith(b"HTTP/1.1 200")
    assert supervisor.pids("") == {}
    with pytest.raises(ControlError, match="No service answers"):
        Client(server.url).models()
    with pytest.raises(ControlError, match="closed"):
        server.status()
