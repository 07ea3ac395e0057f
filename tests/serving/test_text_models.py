"""Models of text end to end: real processes, real models, clients of every protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from jsonschema.validators import Draft202012Validator
from real_server import SMALL, RealServer
from text_contract import TEXTS
from text_samples import write_labels, write_onnx, write_python
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ganglion.serving import byte_elements
from ganglion.serving.client import Client
from ganglion.serving.options import ServingOptions
from ganglion.serving.sharding import HASH, Sharding

PATIENCE = 60.0
LOUD = [f"{text}!" for text in TEXTS]
MODELS = ("onnx", "python")
MOODS = {"good": "positive", "bad": "negative"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("texts")
    real = RealServer(folder, grpc_port=0)
    write_onnx(folder / "onnx")
    write_python(folder / "python")
    for name, labels in (("one", MOODS), ("two", MOODS), ("three", {"good": "negative"})):
        write_labels(folder / name, labels)
    for name in (*MODELS, "one", "two", "three"):
        real.repository.publish(name, folder / name)
        real.server.deploy(name, replicas=1, resources=SMALL)
    real.repository.publish("sharded", folder / "onnx")
    sharding = Sharding(shards=2, by=HASH, key="text", limit=4)
    options = ServingOptions(min_replicas=2, max_replicas=2, resources=SMALL, sharding=sharding, max_batch=8)
    real.server.deploy("sharded", options=options)
    real.server.combine("moods", ["one", "two", "three"], "vote")
    yield real
    real.close()


@pytest.fixture
def client(served: RealServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as made:
        yield made


def rows(*values: str) -> list[dict[str, Any]]:
    return [{"text": text, "times": number} for number, text in enumerate(values)]


@pytest.mark.parametrize("name", MODELS)
def test_rows_and_columns_of_tensorflow_serving(client: httpx.Client, name: str) -> None:
    by_row = client.post(f"/v1/models/{name}:predict", json={"instances": rows(*TEXTS)}).json()
    assert by_row == {"predictions": [{"loud": loud, "score": number + 0.5} for number, loud in enumerate(LOUD)]}
    columns = {"text": TEXTS, "times": [*range(len(TEXTS))]}
    by_column = client.post(f"/v1/models/{name}:predict", json={"inputs": columns}).json()
    assert by_column == {"outputs": {"loud": LOUD, "score": [number + 0.5 for number in range(len(TEXTS))]}}


def test_bare_text_and_its_bytes_in_base64(client: httpx.Client) -> None:
    instances = ["good", {"b64": "YmFk"}, "else"]
    answer = client.post("/v1/models/one:predict", json={"instances": instances}).json()
    assert answer == {"predictions": ["positive", "negative", "unknown"]}


@pytest.mark.parametrize("name", MODELS)
def test_text_as_json_of_the_open_inference_protocol(client: httpx.Client, name: str) -> None:
    inputs = [
        {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS},
        {"name": "times", "datatype": "INT64", "shape": [len(TEXTS)], "data": [*range(len(TEXTS))]},
    ]
    loud, score = client.post(f"/v2/models/{name}/infer", json={"inputs": inputs}).json()["outputs"]
    assert loud == {"name": "loud", "datatype": "BYTES", "shape": [len(TEXTS)], "data": LOUD}
    assert score["datatype"] == "FP32"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("binary", [True, False])
def test_the_client_of_triton_over_http(served: RealServer, name: str, binary: bool) -> None:
    protocol = tritonclient.http
    with protocol.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        text, times = protocol.InferInput("text", [2], "BYTES"), protocol.InferInput("times", [2], "INT64")
        text.set_data_from_numpy(np.array(["good", "ü"], object), binary_data=binary)
        times.set_data_from_numpy(np.array([1, 2]), binary_data=binary)
        wanted = [protocol.InferRequestedOutput(output, binary_data=binary) for output in ("loud", "score")]
        answer = client.infer(name, [text, times], outputs=wanted)
        given = [text.decode() if binary else text for text in answer.as_numpy("loud")]
        assert (given, answer.as_numpy("score").tolist()) == (["good!", "ü!"], [1.5, 2.5])
        described = client.get_model_metadata(name)
        assert [tensor["datatype"] for tensor in described["inputs"]] == ["BYTES", "INT64"]


@pytest.mark.parametrize("name", MODELS)
def test_the_client_of_triton_over_grpc(served: RealServer, name: str) -> None:
    protocol = tritonclient.grpc
    assert served.server.grpc is not None
    with protocol.InferenceServerClient(served.server.grpc.address) as client:
        end = time.monotonic() + PATIENCE
        while not _ready(client):
            assert time.monotonic() < end
        text, times = protocol.InferInput("text", [2], "BYTES"), protocol.InferInput("times", [2], "INT64")
        text.set_data_from_numpy(np.array(["good", "ü"], object))
        times.set_data_from_numpy(np.array([1, 2]))
        answer = client.infer(name, [text, times])
        assert [loud.decode() for loud in answer.as_numpy("loud")] == ["good!", "ü!"]
        assert client.get_model_metadata(name).outputs[0].datatype == "BYTES"
        text = protocol.InferInput("text", [2], "BYTES")
        text.set_data_from_numpy(np.array([b"good", b"\xff"], object))
        with pytest.raises(protocol.InferenceServerException, match="'text', element 1: the bytes are not UTF-8"):
            client.infer(name, [text, times])


def test_typed_contents_over_grpc(served: RealServer) -> None:
    assert served.server.grpc is not None
    request = service_pb2.ModelInferRequest(model_name="one")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[3])
    tensor.contents.bytes_contents.extend([b"good", b"", b"bad"])
    with grpc.insecure_channel(served.server.grpc.address) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        (raw,) = ask(request, timeout=PATIENCE).raw_output_contents
        assert raw == byte_elements.pack([b"positive", b"unknown", b"negative"])
        tensor.shape[:] = [2]
        with pytest.raises(grpc.RpcError, match="has 7 binary bytes behind the 2 elements"):
            ask(request, timeout=PATIENCE)


def _ready(client: tritonclient.grpc.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except tritonclient.grpc.InferenceServerException:
        return False


def test_our_own_client(served: RealServer) -> None:
    with Client(served.url, timeout=PATIENCE) as client:
        assert client.predict("one", ["good", "bad", "🦆"]) == ["positive", "negative", "unknown"]
        assert client.predict("one", np.array(["good", "bad"])) == ["positive", "negative"]
        outputs = client.infer("onnx", {"text": [*TEXTS], "times": np.arange(len(TEXTS))})
        assert outputs["loud"].tolist() == LOUD
        assert outputs["score"].tolist() == [number + 0.5 for number in range(len(TEXTS))]


def test_many_texts_are_sharded_by_their_text_and_merged_in_order(client: httpx.Client) -> None:
    given = [f"text {number % 40} 🦆" for number in range(200)]
    answer = client.post("/v1/models/sharded:predict", json={"instances": rows(*given)}).json()["predictions"]
    assert [row["loud"] for row in answer] == [f"{text}!" for text in given]
    assert [row["score"] for row in answer] == [number + 0.5 for number in range(200)]


def test_more_than_a_batch_is_put_together_again(client: httpx.Client) -> None:
    given = [("good", "bad", "ü")[number % 3] for number in range(500)]
    answer = client.post("/v1/models/one:predict", json={"instances": given}).json()["predictions"]
    assert answer == [MOODS.get(text, "unknown") for text in given]


def test_long_texts_of_several_requests_go_together(client: httpx.Client) -> None:
    given = ["🦆" * 2**17, "a" * 2**20, "", "b" * 2**16]
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(client.post, "/v1/models/onnx:predict", json={"instances": rows(*given)}) for _ in range(8)
        ]
        for future in asked:
            assert [row["loud"] for row in future.result().json()["predictions"]] == [f"{text}!" for text in given]


def test_members_vote_on_their_labels(client: httpx.Client) -> None:
    answer = client.post("/v1/models/moods:predict", json={"instances": ["good", "bad", "else"]}).json()
    assert answer == {"predictions": ["positive", "negative", "unknown"]}


def test_an_instance_that_fails_says_which(client: httpx.Client) -> None:
    answer = client.post("/v1/models/python:predict", json={"instances": rows("a", "refuse")})
    assert (answer.status_code, "ValueError: I refuse" in answer.text) == (500, True)
    assert client.post("/v1/models/python:predict", json={"instances": rows("a")}).status_code == 200


def test_metadata_and_openapi_say_that_it_is_text(client: httpx.Client) -> None:
    definition = client.get("/v1/models/onnx/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert definition["serving_default"]["inputs"]["text"]["dtype"] == "DT_STRING"
    assert definition["serving_default"]["outputs"]["loud"]["dtype"] == "DT_STRING"
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/models/one:predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = Draft202012Validator({**body, "components": document["components"]})
    for good in ({"instances": ["good", {"b64": "YmFk"}]}, {"instances": [{"text": "good"}]}, {"inputs": ["good"]}):
        assert schema.is_valid(good)
        assert client.post("/v1/models/one:predict", json=good).status_code == 200
    for bad in ({"instances": [1]}, {"instances": [{"b64": "!"}]}, {"instances": [["good"]]}):
        assert not schema.is_valid(bad)
        assert client.post("/v1/models/one:predict", json=bad).status_code == 400


def binary(shape: list[int], data: bytes, size: int | None = None) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": shape}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(data) if size is None else size}}]})
    return head.encode() + data, {"Inference-Header-Content-Length": str(len(head.encode()))}


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ([1], b"\xff\xff\xff\xffgood", "has an incomplete element 0"),
        ([1], b"\x04\0\0\0goo", "has an incomplete element 0"),
        ([2], b"\x04\0\0\0good", "has an incomplete element 1"),
        ([1], b"\x03\0\0\0good", "has 1 binary bytes behind the 1 elements"),
        ([1], b"\x02\0\0\0\xff\xfe", "element 0: the bytes are not UTF-8"),
        ([2**31 - 1], b"\x04\0\0\0good", "too few for 2147483647 elements"),
        ([1, 1], b"\x04\0\0\0good", "the model takes [-1]"),
        ([0], b"", "at least one"),
    ],
)
def test_elements_that_lie_are_refused_and_the_model_goes_on(
    client: httpx.Client, shape: list[int], data: bytes, message: str
) -> None:
    body, headers = binary(shape, data)
    answer = client.post("/v2/models/one/infer", content=body, headers=headers)
    assert (answer.status_code, message in answer.text) == (400, True), answer.text
    body, headers = binary([1], b"\x04\0\0\0good")
    outputs = client.post("/v2/models/one/infer", content=body, headers=headers).json()["outputs"]
    assert outputs[0]["data"] == ["positive"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["good"], "has 1 texts; its shape [2] needs 2"),
        (["good", 1], "element 1: a number was given; the model takes text"),
        (["good", {"b64": "YmFk"}], "element 1: an object was given"),
        ([["good"], ["bad"]], "instance 0: a list was given"),
        ("good", "neither a list of 'data'"),
    ],
)
def test_data_that_is_no_text_is_refused(client: httpx.Client, data: Any, message: str) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": data}
    answer = client.post("/v2/models/one/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
