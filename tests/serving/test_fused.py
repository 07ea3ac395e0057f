"""A gateway that holds the model as well: a lone short request is answered without a replica, all else as always."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes
from real_server import SMALL, RealServer
from serving_samples import expected, pixels, write_classifier, write_sum

from ganglion.serving.callers import CallerLimit, Callers
from ganglion.serving.options import ServingOptions

Make = Callable[[], ScriptedReplica]


class Client:
    """Asks `m` for pairs; a scripted replica gives the first number back, the gateway's own model the sum."""

    def __init__(self, gateway: GatewayThread) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)
        self._threads = ThreadPoolExecutor(16)
        self._gateway = gateway

    def ask(self, *numbers: float) -> Future[list[float]]:
        body = {"instances": [[number, 100.0] for number in numbers]}

        def post() -> list[float]:
            response = self._http.post("/v1/models/m:predict", json=body)
            assert response.status_code == 200, response.text
            values: list[float] = response.json()["predictions"]
            return values

        return self._threads.submit(post)

    def calm(self, replica: ScriptedReplica) -> None:
        """Ask one thing after the other until the gateway answers itself."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            asked = self.ask(1.0)
            while not asked.done():
                if not replica.idle:
                    replica.echo()
                time.sleep(0.0005)
            if asked.result() == [101.0]:
                return
        raise AssertionError("the gateway never answered itself")

    def metrics(self) -> str:
        return self._http.get("/metrics").text

    def close(self) -> None:
        self._threads.shutdown()
        self._http.close()


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[Client]:
    made = Client(gateway)
    yield made
    made.close()


@pytest.fixture
def package(tmp_path: Path) -> str:
    write_sum(tmp_path / "sum")
    return str(tmp_path / "sum")


def test_lone_requests_are_answered_here_and_counted(
    gateway: GatewayThread, client: Client, replicas: Make, package: str
) -> None:
    replica = replicas()
    gateway.serve(replica, package=package)
    client.calm(replica)
    assert [client.ask(number).result(PATIENCE) for number in (2.0, 3.0)] == [[102.0], [103.0]]
    assert replica.idle
    text = client.metrics()
    assert 'ganglion_batch_seconds_count{model="m",version="1",replica="gateway"} 3' in text
    assert f'replica="{replica.route.id}"' in text


def test_what_is_in_hand_together_goes_to_the_replica_and_so_does_what_follows(
    gateway: GatewayThread, client: Client, replicas: Make, package: str
) -> None:
    replica = replicas()
    gateway.serve(replica, package=package)
    client.calm(replica)
    large = client.ask(*(float(number) for number in range(17)))
    batch, x = replica.next()
    pair = [client.ask(20.0), client.ask(30.0)]
    while 'ganglion_queue_instances{model="m",version="1"} 2' not in client.metrics():
        time.sleep(0.001)
    replica.answer(batch, x[:, 0])
    assert large.result(PATIENCE) == [float(number) for number in range(17)]
    assert sorted(replica.echo()) == [20.0, 30.0]
    assert sorted(asked.result(PATIENCE)[0] for asked in pair) == [20.0, 30.0]
    after = client.ask(40.0)
    assert replica.echo() == [40.0]
    assert after.result(PATIENCE) == [40.0]


def test_as_many_gateways_as_cores_leave_nothing_short_to_replicas(
    gateway: GatewayThread, client: Client, replicas: Make, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganglion.serving.gateway.fused_link.CORES", 2)
    replica = replicas()
    gateway.serve(replica, package=package, gateways=2)
    client.calm(replica)
    asked = {number: client.ask(float(number)) for number in range(200)}
    while not all(answer.done() for answer in asked.values()):
        if not replica.idle:
            replica.echo()
        time.sleep(0.0005)
    here = sum(answer.result() == [number + 100.0] for number, answer in asked.items())
    assert here > 100, "the core was hardly ever taken away meanwhile for so long that it would not have been short"
    large = client.ask(*(float(number) for number in range(17)))
    assert replica.echo() == [float(number) for number in range(17)]
    assert large.result(PATIENCE) == [float(number) for number in range(17)]


def test_what_a_batch_does_not_hold_is_answered_in_the_next_turn(
    gateway: GatewayThread, client: Client, replicas: Make, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganglion.serving.gateway.fused_link.CORES", 2)
    monkeypatch.setattr("ganglion.serving.gateway.fused_link.SHORT", PATIENCE)
    monkeypatch.setattr("ganglion.serving.gateway.gateway.TICK", PATIENCE)  # nothing else asks what waits
    replica = replicas()
    gateway.apply(routes(model("m", [replica], package=package, gateways=2, max_batch=3)))
    client.calm(replica)
    body = b'{"instances":[[1.0,100.0]]}'
    request = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) as connection:
        connection.sendall(20 * request)
        answers = b""
        while answers.count(b"101.0") < 20:
            received = connection.recv(2**16)
            assert received
            answers += received
    assert replica.idle


def test_requests_that_wait_for_their_turn_are_let_in_one_after_the_other(
    gateway: GatewayThread, client: Client, replicas: Make, package: str
) -> None:
    replica = replicas()
    served = model("m", [replica], package=package)
    gateway.apply(routes(served))
    client.calm(replica)
    limit = CallerLimit(concurrency=1, waiting=1000)
    gateway.apply(routes(served, generation=2, callers=Callers(anonymous=limit)))
    body = b'{"instances":[[1.0,100.0]]}'
    request = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    connections = [socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) for _ in range(10)]
    large = client.ask(*(float(number) for number in range(17)))
    batch, x = replica.next()
    for connection in connections:
        connection.sendall(60 * request)
    while "ganglion_callers_waiting 600" not in client.metrics():
        time.sleep(0.001)
    replica.answer(batch, x[:, 0])
    assert large.result(PATIENCE) == [float(number) for number in range(17)]
    for connection in connections:
        answers = b""
        while answers.count(b"HTTP/1.1") < 60 or not answers.endswith(b"}"):
            received = connection.recv(2**16)
            assert received
            answers += received
        assert answers.count(b"101.0") == 60
        connection.close()


def test_without_the_model_here_replicas_answer_everything(
    gateway: GatewayThread, client: Client, replicas: Make, tmp_path: Path
) -> None:
    replica = replicas()
    gateway.serve(replica, package=str(tmp_path / "elsewhere"))
    for number in range(20):
        asked = client.ask(float(number))
        assert replica.echo() == [number]
        assert asked.result(PATIENCE) == [number]


def test_a_version_that_goes_takes_its_model_along(
    gateway: GatewayThread, client: Client, replicas: Make, package: str
) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, package=package)
    client.calm(first)
    gateway.apply(routes(model("m", [second], version=2), generation=2))
    gateway.wait_connected(1)
    for number in range(6):
        asked = client.ask(float(number))
        assert second.echo() == [number]
        assert asked.result(PATIENCE) == [number]


def test_the_model_goes_with_the_last_replica_and_comes_back_with_the_next(
    gateway: GatewayThread, client: Client, replicas: Make, package: str
) -> None:
    first, second = replicas(), replicas()
    gateway.serve(first, package=package)
    client.calm(first)
    gateway.apply(routes(model("m", [], package=package), generation=2))
    gateway.apply(routes(model("m", [second], package=package), generation=3))
    gateway.wait_connected(1)
    client.calm(second)
    assert client.ask(2.0).result(PATIENCE) == [102.0]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealServer]:
    server = RealServer(tmp_path)
    yield server
    server.close()


def test_a_fused_service_outlives_its_replica_and_follows_new_versions(real: RealServer, tmp_path: Path) -> None:
    image = pixels(1)
    for seed in (0, 1):
        write_classifier(tmp_path / f"v{seed}", seed)
    real.repository.publish("fashion", tmp_path / "v0")
    options = ServingOptions(min_replicas=1, max_replicas=1, resources=SMALL, fused=True)
    real.server.deploy("fashion", options=options)
    body = {"instances": image.tolist()}
    with httpx.Client(base_url=real.url, timeout=PATIENCE) as client:

        def answer() -> np.ndarray:
            response = client.post("/v1/models/fashion:predict", json=body)
            assert response.status_code == 200, response.text
            return np.array(response.json()["predictions"])

        def until_here(version: int) -> None:
            count = f'ganglion_batch_seconds_count{{model="fashion",version="{version}",replica="gateway"}}'
            end = time.monotonic() + PATIENCE
            while f"{count} 0\n" in (text := client.get("/metrics").text) or count not in text:
                assert time.monotonic() < end, text
                assert np.allclose(answer(), expected(image, version - 1), atol=1e-5)

        until_here(1)
        (replica,) = (pid for name, pid in real.pids.items() if name.startswith("serve-"))
        os.kill(replica, signal.SIGKILL)
        for _ in range(20):
            assert np.allclose(answer(), expected(image, 0), atol=1e-5)
        real.repository.publish("fashion", tmp_path / "v1")
        real.server.update("fashion")
        assert np.allclose(answer(), expected(image, 1), atol=1e-5)
        until_here(2)
