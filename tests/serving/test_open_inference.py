from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica
from hypothesis import given
from hypothesis import strategies as st
from serving_samples import encoded, pixels
from tritonclient.utils import InferenceServerException

from ganglion.artifacts.package import ImageInput
from ganglion.serving.gateway import open_inference as protocol

Make = Callable[[], ScriptedReplica]
INFER = "/v2/models/m/infer"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v2", ("", None, "metadata")),
        ("/v2/", ("", None, "metadata")),
        ("/v2/health/live", ("", None, "live")),
        ("/v2/health/ready", ("", None, "ready")),
        ("/v2/models/m", ("m", None, "metadata")),
        ("/v2/models/m/ready", ("m", None, "ready")),
        ("/v2/models/m/infer", ("m", None, "infer")),
        ("/v2/models/m/versions/3", ("m", 3, "metadata")),
        ("/v2/models/m/versions/3/ready", ("m", 3, "ready")),
        ("/v2/models/m/versions/3/infer", ("m", 3, "infer")),
        ("/v2/models/a%20b/infer", ("a b", None, "infer")),
        ("/v2/models/infer", ("infer", None, "metadata")),
        ("/v2/models/..%2F..%2Fetc/infer", ("../../etc", None, "infer")),
        ("/v2/models//infer", None),
        ("/v2/models/m/versions/x/infer", None),
        ("/v2/models/m/versions/" + "9" * 19, None),
        ("/v2/models", None),
        ("/v2/health", None),
        ("/v2x", None),
        ("/v1/models/m", None),
    ],
)
def test_paths(path: str, target: tuple[str, int | None, str] | None) -> None:
    assert protocol.parse_path(path) == target


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_any_path_is_read_or_is_none_of_these(rest: str) -> None:
    target = protocol.parse_path("/v2/" + rest)
    assert target is None or target.verb in ("metadata", "live", "ready", "infer")


class Asker:
    """Asks the gateway over the protocol while a test answers as the replica."""

    def __init__(self, gateway: GatewayThread) -> None:
        self._pool = ThreadPoolExecutor(4)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE)

    def infer(self, document: Any, binary: bytes = b"", **headers: str) -> Future[httpx.Response]:
        body = json.dumps(document).encode() if not isinstance(document, bytes) else document
        if binary:
            headers[protocol.HEADER_LENGTH] = str(len(body))
        return self._pool.submit(self.client.post, INFER, content=body + binary, headers=headers)

    def refused(self, document: Any, binary: bytes = b"", **headers: str) -> tuple[int, str]:
        response = self.infer(document, binary, **headers).result(PATIENCE)
        return response.status_code, response.json()["error"]


@pytest.fixture
def asker(gateway: GatewayThread) -> Iterator[Asker]:
    made = Asker(gateway)
    yield made
    made.client.close()


def tensor(data: Any = None, shape: Any = (1, 2), **fields: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": "FP32", "data": data} | fields


def inputs(*tensors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": list(tensors)} | fields


@pytest.mark.parametrize("data", [[1, 0, 2, 0], [[1, 0], [2, 0]], [1.0, 0, 2, 0]])
def test_numbers_flat_or_nested_are_answered_as_the_protocol_says(
    gateway: GatewayThread, asker: Asker, replicas: Make, data: Any
) -> None:
    replica = replicas()
    gateway.serve(replica)
    asked = asker.infer(inputs(tensor(data, (2, 2)), id="seven"))
    assert replica.echo() == [1, 2]
    assert asked.result(PATIENCE).json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "seven",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1, 2]}],
    }


@pytest.mark.parametrize(
    "wish",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}},
    ],
)
def test_binary_tensors_come_and_go(gateway: GatewayThread, asker: Asker, replicas: Make, wish: dict[str, Any]) -> None:
    replica = replicas()
    gateway.serve(replica)
    given = np.array([[1.5, 0], [2.5, 0]], np.float32)
    described = {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    asked = asker.infer(inputs(described, **wish), given.tobytes())
    assert replica.echo() == [1.5, 2.5]
    answer = asked.result(PATIENCE)
    end = int(answer.headers[protocol.HEADER_LENGTH])
    assert answer.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(answer.content[:end])["outputs"]
    assert output == {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    assert np.frombuffer(answer.content[end:], np.float32).tolist() == [1.5, 2.5]


def test_encoded_images_are_binary_elements(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, image=ImageInput(28, 28, "L"))
    files = [encoded(one) for one in pixels(2)]
    body = b"".join(struct.pack("<I", len(file)) + file for file in files)
    described = {"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(body)}}
    asked = asker.infer(inputs(described), body)
    batch, _ = replica.next()
    assert batch.images == tuple(map(len, files))
    replica.answer(batch, [1, 2])
    assert asked.result(PATIENCE).json()["outputs"][0]["data"] == [1, 2]


BINARY = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
REFUSED: list[tuple[Any, bytes, str]] = [
    (b"", b"", "no inference request"),
    (b"[" * 100_000, b"", "no inference request"),
    (b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [NaN, 1]}]}', b"", "no inference"),
    ([], b"", "no inference request"),
    ({}, b"", "no inference request"),
    (inputs(), b"", "the model has ['x']"),
    (inputs(tensor([1, 2]), tensor([1, 2])), b"", "['x', 'x'] were given"),
    (inputs(tensor([1, 2], name="z")), b"", "['z'] were given"),
    (inputs(tensor([1, 2], datatype="FP64")), b"", "the model takes FP32"),
    (inputs(tensor([1, 2], datatype="BYTES")), b"", "the model takes FP32"),
    (inputs(tensor([1, 2], (2,))), b"", "shape [2]; the model takes [-1, 2]"),
    (inputs(tensor([1, 2], (1, 3))), b"", "the model takes [-1, 2]"),
    (inputs(tensor([], (0, 2))), b"", "at least one"),
    (inputs(tensor([1, 2], (-1, 2))), b"", "no inference request"),
    (inputs(tensor([1, 2], (2**40, 2))), b"", "no inference request"),
    (inputs(tensor([1, 2, 3])), b"", "has 3 numbers; its shape [1, 2] needs 2"),
    (inputs(tensor([[1, 2], [3, 4]])), b"", "data of the shape [2, 2] and says [1, 2]"),
    (inputs(tensor([[1], [2, 3]])), b"", "ragged"),
    (inputs(tensor(["1", "2"])), b"", "something else than numbers"),
    (inputs(tensor([1e39, 2])), b"", "too large"),
    (inputs(tensor("12")), b"", "neither a list of 'data' nor binary"),
    (inputs(tensor(None)), b"", "neither a list of 'data' nor binary"),
    (inputs(tensor([1, 2]), outputs=[{"name": "yy"}]), b"", "no output 'yy'"),
    (inputs(tensor([1, 2]), parameters={"timeout": "soon"}), b"", "whole number of microseconds"),
    (inputs(BINARY), b"1234567", "7 are left"),
    (inputs(BINARY), b"123456789", "1 bytes follow the last tensor"),
    (inputs(BINARY | {"shape": [2, 2]}), b"12345678", "its shape needs 16"),
    (inputs(BINARY | {"data": [1, 2]}), b"12345678", "give one of them"),
    (inputs(BINARY | {"parameters": {"binary_data_size": -1}}), b"12345678", "says -1 binary bytes"),
    (inputs(BINARY | {"parameters": {"binary_data_size": True}}), b"12345678", "says True binary bytes"),
    (inputs(BINARY), struct.pack("<ff", float("nan"), 1), "NaN or infinity"),
    (inputs(BINARY), struct.pack("<ff", 1, float("-inf")), "NaN or infinity"),
]


def test_what_does_not_fit_is_refused_with_the_reason(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica)
    for document, binary, message in REFUSED:
        status, text = asker.refused(document, binary)
        assert (status, message in text) == (400, True), (document, text)
    for length in ("-1", "x", "999", ""):
        assert asker.refused(inputs(tensor([1, 2])), **{protocol.HEADER_LENGTH: length})[0] == 400
    assert replica.idle


@pytest.mark.parametrize("place", [0, 2**18 - 1, 2**18, -1])
def test_one_number_that_is_none_is_found_among_many(
    gateway: GatewayThread, asker: Asker, replicas: Make, place: int
) -> None:
    gateway.serve(replicas())
    values = np.zeros(2 * (2**18 + 1), np.float32)
    values[place] = np.nan
    described = BINARY | {"shape": [2**18 + 1, 2], "parameters": {"binary_data_size": values.nbytes}}
    status, text = asker.refused(inputs(described), values.tobytes())
    assert (status, "NaN or infinity" in text) == (400, True)


def test_images_that_are_cut_off_are_refused(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    replica = replicas()
    gateway.serve(replica, image=ImageInput(28, 28, "L"))
    for body, shape in (
        (b"\x05\x00\x00\x00abc", [1]),
        (b"\x00\x00\x00\x00", [1]),
        (b"\x01\x00", [1]),
        (b"\x01\x00\x00\x00a", [2]),
        (b"\xff\xff\xff\xffa", [1]),
    ):
        described = {"name": "x", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(body)}}
        assert asker.refused(inputs(described), body)[0] == 400
    assert asker.refused(inputs(tensor(["abc"], (1,), datatype="BYTES")))[0] == 400
    assert replica.idle


def test_the_timeout_of_the_body_counts(gateway: GatewayThread, asker: Asker) -> None:
    gateway.serve(state="LOADING")
    status, text = asker.refused(inputs(tensor([1, 2]), parameters={"timeout": 100_000}))
    assert status == 503
    assert "free within 0.1 s" in text


def test_what_is_served_can_be_asked(gateway: GatewayThread, asker: Asker, replicas: Make) -> None:
    get = asker.client.get
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").status_code == 503
    gateway.serve(replicas())
    assert get("/v2/health/ready").status_code == 200
    assert get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert get("/v2/models/m").json() == {
        "name": "m",
        "versions": ["1"],
        "platform": "ganglion",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }
    assert [get(f"/v2/models/{path}").status_code for path in ("m/ready", "m/versions/1/ready", "m/versions/1")] == [
        200
    ] * 3
    for path in ("n", "n/ready", "m/versions/2/ready", "m/versions/2", "m/versions/x"):
        assert get(f"/v2/models/{path}").status_code == 404
    assert get(INFER).status_code == 405
    assert asker.client.post("/v2/models/m").status_code == 405


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}", network_timeout=PATIENCE)
    yield made
    made.close()


@pytest.mark.parametrize(("sent", "received"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_client_of_triton_is_answered(
    gateway: GatewayThread,
    replicas: Make,
    client: triton.InferenceServerClient,
    sent: bool,
    received: bool,
) -> None:
    replica = replicas()
    gateway.serve(replica)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.get_model_metadata("m")["inputs"][0]["datatype"] == "FP32"
    given = triton.InferInput("x", [2, 2], "FP32")
    given.set_data_from_numpy(np.array([[1.5, 0], [2.5, 0]], np.float32), binary_data=sent)
    wanted = triton.InferRequestedOutput("y", binary_data=received)
    with ThreadPoolExecutor(1) as pool:
        echo = pool.submit(replica.echo)
        answer = client.infer("m", [given], outputs=[wanted], request_id="seven")
        assert echo.result(PATIENCE) == [1.5, 2.5]
    assert answer.as_numpy("y").tolist() == [1.5, 2.5]
    assert answer.get_response()["id"] == "seven"


def test_the_client_of_triton_understands_refusals(
    gateway: GatewayThread, replicas: Make, client: triton.InferenceServerClient
) -> None:
    gateway.serve(replicas())
    given = triton.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match=r"the model takes \[-1, 2\]"):
        client.infer("m", [given])
    with pytest.raises(InferenceServerException, match="no model 'n'"):
        client.get_model_metadata("n")
