from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gateway_samples import GatewayThread, ScriptedReplica, model, routes
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ControlError, GanglionError, UserError
from ganglion.serving.client import Client, ServiceError
from ganglion.serving.retries import RetryBudget, pause_before


def test_arrays_of_numpy_can_be_sent_in_any_nesting(
    gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    with Client(f"127.0.0.1:{gateway.port}") as client:
        for given in (
            np.array([[1.5, 2]], np.float32),
            [np.array([1.5, 2])],
            [[np.float32(1.5), 2]],
            [{"x": [1.5, 2]}],
        ):
            answered = _answer_one(replica)
            assert client.predict("m", given) == [1.5]
            answered.result(20)


def _answer_one(replica: ScriptedReplica) -> Future[list[float]]:
    return ThreadPoolExecutor(1).submit(replica.echo)


def test_errors_say_what_the_service_said(gateway: GatewayThread) -> None:
    gateway.apply(routes(model("m", [], state="LOADING", timeout=0.2)))
    with Client(f"http://127.0.0.1:{gateway.port}/", retries=0) as client:
        with pytest.raises(ServiceError, match=r"No replica of model 'm' was free within 0\.2 s.*HTTP 503") as caught:
            client.predict("m", [[1, 2]])
        assert caught.value.status == 503
        with pytest.raises(ServiceError, match="no version 9"):
            client.status("m", 9)


def test_mistakes_of_the_caller_are_found_before_anything_is_sent(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:1")
    with pytest.raises(UserError, match="either instances or images"):
        client.predict("m", [[1]], images=[b"x"])
    with pytest.raises(UserError, match="either instances or images"):
        client.predict("m")
    with pytest.raises(UserError, match="No such file"):
        client.predict("m", images=[tmp_path / "missing.png"])
    with pytest.raises(UserError, match="object cannot be sent"):
        client.predict("m", [object()])
    for url in ("ftp://host", "http://", "http://host/path"):
        with pytest.raises(UserError, match="not the address of a service"):
            Client(url)


def test_a_service_that_is_not_there_is_named() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ControlError, match=f"No service answers at {url}"):
            client.models()


def test_a_connection_that_the_service_closed_meanwhile_costs_nothing(
    gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    with Client(f"http://127.0.0.1:{gateway.port}") as client:
        client.models()
        gateway.cut()
        answered = _answer_one(replica)
        assert client.predict("m", [[3, 0]]) == [3]
        answered.result(20)


def test_the_client_loads_no_server() -> None:
    code = "import sys; from ganglion import Client; Client('host'); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "torch", "onnxruntime", "uvloop", "PIL", "sqlalchemy"} & set(loaded)


class Scripted:
    """A service that does one thing after the other, each with one request on a connection of its own."""

    def __init__(self, *answers: bytes | None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: Sequence[bytes | None]) -> None:
        for answer in answers:
            connection, _address = self._listener.accept()
            with connection:
                self.heads.append(connection.recv(2**16))
                if answer is not None:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)  # until the client has closed it

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(*answers: bytes | None) -> Scripted:
        made.append(Scripted(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _reply(status: int, body: str, *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} x", "connection: close", f"content-length: {len(body)}", *fields]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


GOOD = _reply(200, '{"predictions": [1]}')


@pytest.mark.parametrize(
    "bad",
    [None, b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", _reply(503, '{"error": "busy"}', "retry-after: 0")],
    ids=["no answer", "half an answer", "refused for now"],
)
def test_what_got_no_answer_is_asked_again(scripted: Callable[..., Scripted], bad: bytes | None) -> None:
    service = scripted(bad, bad, GOOD)
    with Client(service.url) as client:
        assert client.predict("m", [[1]]) == [1]
    assert len(service.heads) == 3


def test_retries_end(scripted: Callable[..., Scripted]) -> None:
    service = scripted(None, None)
    with Client(service.url, retries=1) as client, pytest.raises(ControlError, match="No service answers"):
        client.predict("m", [[1]])
    assert len(service.heads) == 2


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 504])
def test_what_was_answered_without_a_hint_is_not_asked_again(scripted: Callable[..., Scripted], status: int) -> None:
    service = scripted(_reply(status, '{"error": "so it is"}'))
    with Client(service.url) as client, pytest.raises(ServiceError, match="so it is") as caught:
        client.predict("m", [[1]])
    assert caught.value.status == status


def test_a_hint_beyond_the_deadline_is_not_waited_for(scripted: Callable[..., Scripted]) -> None:
    service = scripted(_reply(429, '{"error": "too much"}', "retry-after: 60"))
    with Client(service.url, timeout=5) as client, pytest.raises(ServiceError, match="too much"):
        client.predict("m", [[1]])


def test_the_deadline_holds_and_the_service_is_told(gateway: GatewayThread) -> None:
    gateway.apply(routes(model("m", [], state="LOADING")))
    with Client(f"http://127.0.0.1:{gateway.port}", timeout=0.2) as client, pytest.raises(GanglionError) as caught:
        client.predict("m", [[1, 2]])
    assert re.search(r"free within 0\.(19|2)|did not answer: timed out", str(caught.value))


def test_tensors_travel_in_binary(gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]) -> None:
    replica = replicas()
    gateway.serve(replica)
    x = np.array([[1.5, 2], [0.1, 4]], np.float32)
    with Client(f"http://127.0.0.1:{gateway.port}") as client:
        answered = _answer_one(replica)
        outputs = client.infer("m", {"x": x})
        answered.result(20)
        with pytest.raises(UserError, match="complex64; what can be sent is bool"):
            client.infer("m", {"x": x.astype(np.complex64)})
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], x[:, 0])  # to the last bit


def test_threads_share_a_client(gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]) -> None:
    replica = replicas()
    gateway.serve(replica)

    def answer() -> None:
        count = 0
        while count < 400:
            count += len(replica.echo())

    answering = ThreadPoolExecutor(1).submit(answer)
    with Client(f"http://127.0.0.1:{gateway.port}") as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: client.predict("m", [[number, 0]]), range(400))) == [
            [number] for number in range(400)
        ]
    answering.result(20)


@given(attempt=st.integers(1, 200), chance=st.floats(0, 1), hint=st.floats(0, 60))
def test_pauses_grow_within_bounds_and_honour_the_hint(attempt: int, chance: float, hint: float) -> None:
    pause = pause_before(attempt, chance, at_least=hint)
    assert hint <= pause <= hint + 2.0
    assert pause_before(attempt + 1, chance, at_least=hint) >= pause


def test_a_service_in_trouble_gets_at_most_a_fifth_more() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(1000)) == 100
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == 100
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 190 <= spent <= 200
