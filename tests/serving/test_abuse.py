"""What a gateway gets from strangers: broken, huge, nested, slow and random requests. None costs more than itself."""

from __future__ import annotations

import gc
import json
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from queue import Empty
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec
from ganglion.serving.gateway import open_inference, tensorflow_examples, tensorflow_rest
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.gateway.row_reader import RowReader
from ganglion.serving.routes import VersionRoute

PREDICT, INFER = "/v1/models/m:predict", "/v2/models/m/infer"


class Service:
    """A gateway whose replica answers everything."""

    def __init__(self) -> None:
        self.gateway = GatewayThread(HttpLimits(body=2**20, bodies=3 * 2**20))
        self.replica = ScriptedReplica()
        self.gateway.serve(self.replica, image=ImageInput(1, 2, "L"))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._echo)
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.gateway.port}", timeout=PATIENCE)

    def _echo(self) -> None:
        while not self._over.is_set():
            try:
                batch, x = self.replica._batches.get(timeout=0.05)
            except Empty:
                continue
            self.replica.answer(batch, x[:, 0] if batch.tensors else [0.0] * len(batch.images))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.gateway.port), PATIENCE)

    def check(self) -> None:
        """It still answers what is right."""
        answer = self.client.post(PREDICT, json={"instances": [[3, 0]]})
        assert answer.json() == {"predictions": [3]}

    def close(self) -> None:
        self.client.close()
        self._over.set()
        self._thread.join()
        self.gateway.close()
        self.replica.die()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


DEEP = b"[" * 50_000 + b"]" * 50_000
BROKEN = [
    b"",
    b"{",
    b'{"instances": [[1, 2]',
    b'{"instances": ' + DEEP + b"}",
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": ' + DEEP + b"}]}",
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b'{"instances": [[NaN, 1]]}',
    b'{"instances": [[Infinity, 1]]}',
    b'{"instances": [[1e999, 1]]}',
    b'{"instances": [[1e39, 1]]}',
    b'{"instances": [[' + b"9" * 100_000 + b", 1]]}",
    b'{"instances": [["\\ud800", 1]]}',
    b'{"instances": [[1, 2], {"b64": "AAAA"}]}',
    b'{"instances": [{"b64": "' + b"A" * 3 + b'"}]}',
    b"\x00" * 1000,
    b"\xff\xfe\x00",
    b"PK\x03\x04" + b"\x00" * 100,
]


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_broken_bodies_are_the_callers_fault(service: Service, path: str, body: bytes) -> None:
    answer = service.client.post(path, content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    service.check()


TRICKS = [
    "/v1/models/../../etc/passwd",
    "/v1/models/..%2f..%2fetc%2fpasswd:predict",
    "/v1/models/%2e%2e/%2e%2e/m:predict",
    "/v1/models/m%00:predict",
    "/v1/models/m/versions/1%2f..%2f2:predict",
    "/v1/models/m/versions/\u0661:predict",
    "/v1/models/m/versions/999999999999999999:predict",
    "/v1/models/%ff%fe:predict",
    "/v1/models/" + "m" * 5000 + ":predict",
    "/v2/models/../m/infer",
    "/v2/models/m%2finfer",
    "/v2/models/%00/infer",
    "//v1/models/m:predict",
    "/v1/models/m:predict:predict",
    "*",
    "http://elsewhere/v1/models/../m:predict",
    "ftp://elsewhere/v1/models/m:predict",
]


@pytest.mark.parametrize("target", TRICKS, ids=range(len(TRICKS)))
def test_tricks_with_paths_find_nothing(service: Service, target: str) -> None:
    body = b'{"instances": [[1, 0]]}'
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    with service.connect() as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert answer.split()[1] in (b"400", b"404", b"405")
    assert b"root:" not in answer
    service.check()


MANY = {
    "lists": (PREDICT, b'{"instances":[' + b"[]," * 1_100_000 + b"[]]}"),
    "objects": (PREDICT, b'{"inputs":[' + b"{}," * 1_100_000 + b"{}]}"),
    "examples": ("/v1/models/m:classify", b'{"examples":[' + b"{}," * 1_100_000 + b"{}]}"),
    "tensors": (INFER, b'{"inputs":[' + b"{}," * 1_100_000 + b"{}]}"),
    "numbers": (INFER, b'{"inputs":[' + b"1," * 17_000_000 + b"1]}"),
    "data": (
        INFER,
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[' + b"[]," * 1_100_000 + b"[]]}]}",
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_short_bodies_of_very_many_values_are_refused_unparsed(name: str) -> None:
    path, body = MANY[name]
    signature = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("y", "float32", (-1, 3)),))
    read = {PREDICT: tensorflow_rest.read, INFER: open_inference.read}.get(path)
    if read is None:
        version = VersionRoute(version=1, state="AVAILABLE", signature=signature)
        read = tensorflow_examples.reader("classify", "m", version)
    endpoint: Any = SimpleNamespace(signature=signature, image=None, reader=RowReader(signature))
    began = time.process_time()
    with pytest.raises(RequestError, match="lists and objects") as refused:
        read(endpoint, Head("POST", path, {}), body)
    assert refused.value.status == 413
    assert time.process_time() - began < 0.5, "parsing it takes longer, and a hundred times its memory"


def test_what_is_quoted_in_an_error_is_cut(service: Service) -> None:
    name = b"instances" * 50_000
    tensor = b'{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}'
    outputs = b'{"inputs":[%b],"outputs":[{"name":"%b"}]}' % (tensor, name)
    for path, body in ((PREDICT, b'{"%b": 1}' % name), (INFER, outputs)):
        answer = service.client.post(path, content=body)
        assert (answer.status_code, len(answer.content) < 1200) == (400, True)
        assert answer.elapsed.total_seconds() < PATIENCE / 10


@pytest.mark.parametrize(
    ("given", "status"), [("1" + "0" * 400, 200), ("1e300", 200), ("60000000.0", 200), ("0.5", 400)]
)
def test_a_deadline_may_be_any_whole_number(service: Service, given: str, status: int) -> None:
    tensor = '{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}'
    answer = service.client.post(INFER, content=f'{{"inputs":[{tensor}],"parameters":{{"timeout":{given}}}}}')
    assert answer.status_code == status, answer.text


def test_no_output_is_given_more_than_once(service: Service) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    answer = service.client.post(INFER, json={"inputs": [tensor], "outputs": [{"name": "y"}] * 1000})
    assert (answer.status_code, "same name" in answer.json()["error"]) == (400, True)


def test_requests_with_bad_deadlines_are_counted(service: Service) -> None:
    def count() -> float:
        lines = service.client.get("/metrics").text.splitlines()
        mine = [line for line in lines if line.startswith('ganglion_requests_total{model="m"') and '"400"' in line]
        return sum(float(line.split()[-1]) for line in mine)

    before = count()
    answer = service.client.post(PREDICT, json={"instances": [[1, 2]]}, headers={"x-request-timeout-ms": "soon"})
    assert (answer.status_code, count()) == (400, before + 1)


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(service: Service) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with service.connect() as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {2**30}\r\n\r\n".encode())
        assert connection.recv(2**16).split()[1] == b"413"
    with service.connect() as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        sent, chunk = 0, b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        try:
            while sent < 2**30:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass  # cut
        assert sent < 2**28, "the gateway read on"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10, "kibibytes"
    service.check()


def test_many_bodies_at_once_are_bounded_together(service: Service) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {2**20}\r\n\r\n".encode()
    with ExitStack() as stack:
        connections = [stack.enter_context(service.connect()) for _ in range(4)]
        for connection in connections:
            connection.sendall(head + b"x" * (2**20 - 1))
        assert select.select(connections, [], [], PATIENCE)[0], "nobody is refused"
        refused, _, _ = select.select(connections, [], [], 0)
        assert len(refused) == 1
        assert refused[0].recv(2**16).split()[1] == b"503"
    service.check()


def test_hundreds_of_slow_connections_keep_nobody_else_waiting(service: Service) -> None:
    with ExitStack() as stack:
        for number in range(300):
            slow = stack.enter_context(service.connect())
            slow.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: {number}\r\n"[: 10 + number % 40].encode())
        service.check()


def test_bad_requests_leave_nothing_behind(service: Service) -> None:
    def storm() -> None:
        for number in range(100):
            service.client.post(f"/v1/models/{number}:predict", content=b"{}")
            service.client.post(PREDICT, content=b'{"instances": [[1, %d]' % number)
            service.client.post(PREDICT, json={"instances": [[1, number]]})

    storm()
    gc.collect()
    before = len(gc.get_objects())
    storm()
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert service.gateway.gateway.http.held == 0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | values,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | values,
        "datatype": st.sampled_from(["FP32", "BYTES", "UINT8"]) | values,
        "data": st.lists(st.floats(width=32), max_size=4) | values,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "binary_data"]), values, max_size=2),
    },
)
documents = st.one_of(
    values,
    st.fixed_dictionaries(
        {}, optional={"instances": values, "inputs": values, "signature_name": values, "parameters": values}
    ),
    st.fixed_dictionaries({"inputs": st.lists(tensors, max_size=2)}, optional={"outputs": values, "id": values}),
)
headers = st.dictionaries(
    st.sampled_from(
        ["x-request-timeout-ms", "inference-header-content-length", "authorization", "x-api-key", "accept"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12) | st.integers(-2, 100).map(str),
    max_size=2,
)
targets = st.one_of(
    st.sampled_from([PREDICT, INFER, "/v1/models", "/v1/models/m", "/v2/models/m", "/metrics", "/readyz", "/"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda text: "/v1/models/" + text),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda text: "/v2/models/" + text),
)


def exchange(service: Service, request: bytes) -> int | None:
    """Send bytes on a connection of their own; the status of the first answer, if any came."""
    with service.connect() as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(2**16):
            answer += data
    return int(answer.split()[1]) if answer else None


@settings(deadline=None, max_examples=150)
@given(method=st.sampled_from(["POST", "GET", "HEAD", "PUT"]), target=targets, document=documents, extra=headers)
def test_no_request_is_answered_with_a_fault_of_ours(
    service: Service, method: str, target: str, document: Any, extra: dict[str, str]
) -> None:
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    lines = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
    head = f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{lines}connection: close\r\n\r\n"
    status = exchange(service, head.encode() + body)
    if status == 503:
        assert "x-request-timeout-ms" in extra, "only what is due at once may be late"
    else:
        assert status is not None
        assert 200 <= status < 500


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_requests_are_refused_or_cut(service: Service, data: st.DataObject) -> None:
    body = b'{"instances": [[1, 0]]}'
    request = bytearray(
        b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    )
    request += body
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(request) - 1))
        request[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not request:
            break
    status = exchange(service, bytes(request))
    assert status is None or 200 <= status < 500
