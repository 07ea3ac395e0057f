"""Several gateways at one port, as real processes: what is lost when one of them is killed, and what they share."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from real_server import SMALL, RealServer
from serving_samples import expected, pixels, write_classifier

from ganglion.core.errors import ControlError, UserError
from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key
from ganglion.serving.client import Client
from ganglion.serving.controller import ModelServer
from ganglion.serving.port import SharedPort, take_port

PATIENCE = 60.0
BODY = json.dumps({"instances": pixels(1).tolist()})
WANTED = expected(pixels(1), 0)[0]
KEY = new_key()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("served")
    write_classifier(folder / "package")
    made = RealServer(folder, gateways=2)
    made.repository.publish("m", folder / "package")
    made.server.deploy("m", replicas=2, resources=SMALL)
    wait_for(lambda: len(gateways(made)) == 2 and made.server.status()["gateway"] == "ready")
    yield made
    made.close()


def gateways(served: RealServer) -> dict[str, int]:
    return {name: pid for name, pid in served.pids.items() if name.startswith("gateway")}


def wait_for(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError("it never came true")


def kill_gateway(served: RealServer, index: int) -> None:
    """Kill one of two gateways, and wait until it has been replaced."""
    name, pid = sorted(gateways(served).items())[index]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gateways(served).get(name, pid) != pid and served.server.status()["gateway"] == "ready")


def test_the_metrics_of_all_gateways_are_on_each_page(served: RealServer) -> None:
    def asked() -> float:
        return sum(_sample(served.url, "ganglion_requests_total"))

    before = asked()
    for _ in range(20):  # each on a connection of its own
        assert httpx.post(f"{served.url}/v1/models/m:predict", content=BODY).status_code == 200
    wait_for(lambda: asked() >= before + 20)
    page = httpx.get(f"{served.url}/metrics").text
    assert set(re.findall(r'ganglion_connections\{gateway="(\d)"', page)) == {"0", "1"}
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "each metric is described once"
    (found,) = httpx.get(f"{served.url}/ganglion/status").json()["models"]
    assert found["requests"]["200"] >= 20


def test_requests_of_our_client_survive_gateways_that_are_killed(served: RealServer) -> None:
    stop = threading.Event()
    failures: list[str] = []
    answers: list[Any] = []

    with Client(served.url) as client, ThreadPoolExecutor(8) as pool:

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(client.predict("m", pixels(1))[0])
                except Exception as error:  # noqa: BLE001  counted
                    failures.append(repr(error))

        asking = [pool.submit(ask) for _ in range(8)]
        for number in range(4):
            wait_for(lambda number=number: len(answers) >= 200 * (number + 1))
            kill_gateway(served, number % 2)
        wait_for(lambda: len(answers) >= 1200)
        stop.set()
        for one in asking:
            one.result(PATIENCE)
    assert failures == []
    np.testing.assert_allclose(answers, np.repeat(WANTED[None], len(answers), axis=0), atol=1e-6)


def held(served: RealServer) -> dict[str, int]:
    """Connections of each gateway, as it last said; the one that asks may be among them."""
    page = httpx.get(f"{served.url}/metrics").text
    return {name: int(count) for name, count in re.findall(r'ganglion_connections\{gateway="(\d)"\} (\d+)', page)}


def test_a_killed_gateway_costs_its_own_connections_and_no_others(served: RealServer) -> None:
    connections: list[http.client.HTTPConnection] = []
    lost: list[http.client.HTTPConnection] = []

    def ask(connection: http.client.HTTPConnection) -> bool:
        connection.request("POST", "/v1/models/m:predict", BODY)
        return json.loads(connection.getresponse().read())["predictions"] is not None

    try:
        while not connections or min(held(served).values()) < 8:  # a busy machine may be slow to spread them
            assert len(connections) < 320, "one gateway takes next to none"
            more = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE) for _ in range(32)]
            connections += more
            assert all(map(ask, more))
            count = len(connections)
            wait_for(lambda count=count: 0 <= sum(held(served).values()) - count <= 2)
        its_own = held(served)["0"]
        kill_gateway(served, 0)
        for connection in connections:
            try:
                assert ask(connection)
            except (ConnectionError, http.client.HTTPException):
                lost.append(connection)
    finally:
        for connection in connections:
            connection.close()
    assert its_own - 2 <= len(lost) <= its_own, "those that asked how many there are are gone"


def test_who_connects_while_no_gateway_is_there_is_answered_by_the_next(served: RealServer) -> None:
    for pid in gateways(served).values():
        os.kill(pid, signal.SIGKILL)
    with Client(served.url, retries=0) as client:
        np.testing.assert_allclose(client.predict("m", pixels(1)), [WANTED], atol=1e-6)
    wait_for(lambda: served.server.status()["gateway"] == "ready")


def test_what_a_gateway_has_not_accepted_is_not_lost_with_it(served: RealServer) -> None:
    for pid in gateways(served).values():
        os.kill(pid, signal.SIGSTOP)
    waiting = [socket.create_connection(("127.0.0.1", served.port), PATIENCE) for _ in range(8)]
    head = f"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(BODY)}\r\n\r\n"
    for connection in waiting:
        connection.sendall(head.encode() + BODY.encode())
    for pid in gateways(served).values():
        os.kill(pid, signal.SIGKILL)
    for connection in waiting:
        with closing(connection), connection.makefile("rb") as answer:
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    wait_for(lambda: served.server.status()["gateway"] == "ready")


def test_a_gateway_that_has_stopped_is_replaced_long_before_its_supervisor_would_miss_it(served: RealServer) -> None:
    before = gateways(served)
    name, pid = sorted(before.items())[0]
    connections = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE) for _ in range(16)]
    for connection in connections:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    lost = 0
    for connection in connections:
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except (ConnectionError, http.client.HTTPException):
            lost += 1
        connection.close()
    assert 0 < lost < 16, "its connections end, and no others"
    assert time.monotonic() - began < 15.0
    wait_for(lambda: gateways(served).get(name, pid) != pid and served.server.status()["gateway"] == "ready")
    assert [pid for other, pid in before.items() if other != name] == [
        pid for other, pid in gateways(served).items() if other != name
    ], "the other one was not touched"


def test_a_rate_holds_for_all_gateways_together(served: RealServer) -> None:
    rate, burst, seconds = 200.0, 10, 2.0
    served.server.limit(Callers(anonymous=CallerLimit(rate=rate, burst=burst)))
    try:
        with ThreadPoolExecutor(8) as pool:
            connections = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE) for _ in range(8)]
            began = time.monotonic()
            counts = list(pool.map(lambda connection: _storm(connection, began + seconds), connections))
            took = time.monotonic() - began
    finally:
        served.server.limit(None)
    allowed, refused = sum(count[0] for count in counts), sum(count[1] for count in counts)
    assert refused > allowed / 4, "it was not asked for more than is allowed"
    assert 0.98 * (burst + rate * seconds) <= allowed <= 1.02 * (burst + rate * took)
    limited = _sample(served.url, "ganglion_limited_total")
    assert len(limited) == 2, "only one gateway was asked"


@pytest.mark.parametrize(("known", "most", "asked"), [(False, 2, 16), (True, 3, 16), (True, 50, 160)])
def test_a_limit_of_concurrency_holds_for_all_gateways_together(
    served: RealServer, known: bool, most: int, asked: int
) -> None:
    limit = CallerLimit(concurrency=most, waiting=0)
    keys = (ApiKey(name="ann", digest=digest_of(KEY)),)
    served.server.limit(Callers(anonymous=limit, authenticated=limit, keys=keys))
    headers = {"authorization": f"Bearer {KEY}"} if known else {}
    replicas = [pid for name, pid in served.pids.items() if not name.startswith("gateway")]
    connections = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE) for _ in range(asked)]
    try:
        for connection in connections:
            connection.connect()
        for pid in replicas:
            os.kill(pid, signal.SIGSTOP)
        for connection in connections:
            connection.request("POST", "/v1/models/m:predict", BODY, headers)
        waiting = {connection.sock: connection for connection in connections}
        refused = _take(waiting, asked - most)
        for pid in replicas:
            os.kill(pid, signal.SIGCONT)
        answered = _take(waiting, most)
    finally:
        for pid in replicas:
            os.kill(pid, signal.SIGCONT)
        for connection in connections:
            connection.close()
        served.server.limit(None)
    assert refused == [429] * (asked - most), "more were let in"
    assert answered == [200] * most, "fewer were let in"


def _take(waiting: dict[socket.socket, http.client.HTTPConnection], count: int) -> list[int]:
    """The statuses of the next answers on any of these connections."""
    found: list[int] = []
    while len(found) < count:
        ready, _, _ = select.select(list(waiting), [], [], PATIENCE)
        assert ready, f"only {len(found)} of {count} were answered"
        for one in ready[: count - len(found)]:
            answer = waiting.pop(one).getresponse()
            answer.read()
            found.append(answer.status)
    return found


def _storm(connection: http.client.HTTPConnection, end: float) -> tuple[int, int]:
    counts = {200: 0, 429: 0}
    while time.monotonic() < end:
        connection.request("POST", "/v1/models/m:predict", BODY)
        answer = connection.getresponse()
        answer.read()
        counts[answer.status] += 1
    connection.close()
    return counts[200], counts[429]


def _sample(url: str, name: str) -> list[float]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{")]


@pytest.mark.parametrize("count", [0, 17])
def test_there_are_one_to_sixteen_gateways(served: RealServer, count: int) -> None:
    with pytest.raises(UserError, match=f"{count} gateways were asked for; 1 to 16"):
        ModelServer(served.supervisor, served.repository, gateways=count)


def test_a_port_belongs_to_one_service(tmp_path: Path) -> None:
    port = SharedPort("127.0.0.1", 0)
    with pytest.raises(UserError, match="Give another port"):
        SharedPort("127.0.0.1", port.number)
    listener, counts = take_port(port.door)
    os.close(counts)
    port.close()
    with closing(socket.create_connection(("127.0.0.1", port.number), PATIENCE)):
        pass  # whoever has it still listens
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.number), PATIENCE)
    with pytest.raises(ControlError, match="No port is held"):
        take_port(port.door)
