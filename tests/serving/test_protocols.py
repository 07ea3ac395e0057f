"""Real processes and independent clients: TensorFlow Serving's REST as its pages show it, curl, Triton's client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families
from real_server import SMALL, RealServer
from serving_samples import encoded, expected, pixels, write_classifier

from ganglion.artifacts.package import PackageManifest, Signature, TensorSpec, write_package
from ganglion.core.errors import UserError
from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key

PATIENCE = 60.0
CLASSES = tuple(f"class {number}" for number in range(10))


def write_half_plus_three(folder: Path) -> PackageManifest:
    """The model of TensorFlow Serving's own examples: x / 2 + 3."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "half"], ["halves"]), helper.make_node("Add", ["halves", "three"], ["y"])],
        "half_plus_three",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [
            onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            onnx.numpy_helper.from_array(np.array(3, np.float32), "three"),
        ],
    )
    path = folder.parent / "half_plus_three.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    signature = Signature((TensorSpec("x", "float32", (-1,)),), (TensorSpec("y", "float32", (-1,)),))
    return write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": path})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("protocols")
    real = RealServer(folder, grpc_port=0, access_log=folder / "access.log")
    write_half_plus_three(folder / "half")
    manifest = write_classifier(folder / "plain")
    write_package(
        folder / "classifier",
        runtime="onnx",
        signature=manifest.signature,
        files={"model.onnx": folder / "plain" / "model.onnx"},
        image=manifest.image,
        classes=CLASSES,
    )
    real.repository.publish("half_plus_three", folder / "half")
    real.repository.publish("fashion", folder / "classifier")
    real.repository.set_alias("half_plus_three", "stable", 1)
    real.server.deploy("half_plus_three", replicas=1, resources=SMALL)
    real.server.deploy("fashion", replicas=1, resources=SMALL)
    yield real
    real.close()


@pytest.fixture
def client(served: RealServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{served.url}/v1/models", timeout=PATIENCE) as made:
        yield made


def test_the_calls_of_the_documentation_are_answered_as_it_says(client: httpx.Client) -> None:
    assert client.get("/half_plus_three").json() == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    rows = client.post("/half_plus_three:predict", content=b'{"instances": [1.0,2.0,5.0]}')
    assert rows.json() == {"predictions": [3.5, 4.0, 5.5]}
    columns = client.post("/half_plus_three:predict", json={"inputs": {"x": [1.0, 2.0]}, "signature_name": ""})
    assert columns.json() == {"outputs": [3.5, 4.0]}
    examples = {"examples": [{"x": 1.0}, {"x": 2.0}]}
    assert client.post("/half_plus_three:regress", json=examples).json() == {"results": [3.5, 4.0]}
    shared = {"context": {"x": [1.0]}, "examples": [{}, {}], "signature_name": "serving_default"}
    assert client.post("/half_plus_three:regress", json=shared).json() == {"results": [3.5, 3.5]}
    definition = client.get("/half_plus_three/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert definition["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    wrong = client.post("/half:predict", json={"instances": [1.0]})
    assert (wrong.status_code, list(wrong.json())) == (404, ["error"])


@pytest.mark.parametrize("place", ["/versions/1", "/labels/stable"])
def test_a_version_is_asked_by_its_number_or_its_label(client: httpx.Client, place: str) -> None:
    model = f"/half_plus_three{place}"
    assert client.get(model).json()["model_version_status"][0]["version"] == "1"
    assert client.get(f"{model}/metadata").json()["model_spec"]["version"] == "1"
    assert client.post(f"{model}:predict", json={"instances": [1.0]}).json() == {"predictions": [3.5]}
    assert client.post(f"{model}:regress", json={"examples": [{"x": 1.0}]}).json() == {"results": [3.5]}


def test_an_alias_that_is_moved_is_followed_while_the_model_is_served(served: RealServer, client: httpx.Client) -> None:
    missing = client.post("/half_plus_three/labels/stabel:predict", json={"instances": [1.0]})
    assert (missing.status_code, "Did you mean 'stable'?" in missing.json()["error"]) == (404, True)
    served.repository.set_alias("half_plus_three", "champion", 1)
    end = time.monotonic() + PATIENCE
    while client.get("/half_plus_three/labels/champion").status_code != 200:
        assert time.monotonic() < end
    assert (
        "/v1/models/half_plus_three/labels/champion:predict" in httpx.get(f"{served.url}/openapi.json").json()["paths"]
    )


def test_classes_have_their_names(client: httpx.Client) -> None:
    given = pixels(2)
    wanted = expected(given, 0)
    pictures = [{"image_bytes": {"b64": b64encode(encoded(one)).decode()}} for one in given]
    flat = [{"pixels": one.reshape(-1).tolist()} for one in given]
    for examples in (pictures, flat):
        results = client.post("/fashion:classify", json={"examples": examples}).json()["results"]
        assert [[label for label, _score in one] for one in results] == [list(CLASSES)] * 2
        np.testing.assert_allclose([[score for _label, score in one] for one in results], wanted, atol=1e-6)
    refused = client.post("/fashion:regress", json={"examples": flat})
    assert (refused.status_code, "to regress, one output" in refused.json()["error"]) == (400, True)
    refused = client.post("/half_plus_three:classify", json={"examples": [{"x": 1}]})
    assert (refused.status_code, "to classify, one output" in refused.json()["error"]) == (400, True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_every_protocol(served: RealServer, tmp_path: Path) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(
            ["curl", "-sS", "--fail-with-body", *arguments],
            capture_output=True,
            timeout=PATIENCE,
            text=True,
            check=False,
        ).stdout

    model = f"{served.url}/v1/models/half_plus_three"
    assert json.loads(curl("-d", '{"instances": [1.0, 5.0]}', f"{model}:predict")) == {"predictions": [3.5, 5.5]}
    chunked = curl("-H", "Transfer-Encoding: chunked", "-d", '{"instances": [1.0]}', f"{model}:predict")
    assert json.loads(chunked) == {"predictions": [3.5]}
    assert "error" in json.loads(curl("-d", '{"instances": [', f"{model}:predict"))
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"inputs": [tensor]}))
    answer = json.loads(curl("-d", f"@{body}", f"{served.url}/v2/models/half_plus_three/infer"))
    assert answer["outputs"][0]["data"] == [3.5]
    assert curl("-I", f"{served.url}/readyz").startswith("HTTP/1.1 200 OK")
    assert json.loads(curl(f"{served.url}/openapi.json"))["openapi"] == "3.1.0"


def test_grpc_is_answered_by_the_same_models(served: RealServer) -> None:
    assert served.server.grpc is not None
    given = pixels(3)
    tensor = triton.InferInput("pixels", list(given.shape), "UINT8")
    tensor.set_data_from_numpy(given)
    with triton.InferenceServerClient(served.server.grpc.address) as client:
        for killed in (False, True):
            end = time.monotonic() + PATIENCE
            if killed:  # it comes back at the same address
                ((member, pid),) = [item for item in served.pids.items() if item[0].startswith("grpc")]
                os.kill(pid, signal.SIGKILL)
                while served.pids.get(member) in (pid, None):
                    assert time.monotonic() < end
            while not _ready(client):
                assert time.monotonic() < end
            answer = client.infer("fashion", [tensor]).as_numpy("probabilities")
            np.testing.assert_allclose(answer, expected(given, 0), atol=1e-6)
    assert served.server.status()["grpc"] == served.server.grpc.address


def _ready(client: triton.InferenceServerClient) -> bool:
    try:
        return client.is_server_ready()
    except triton.InferenceServerException:  # the process has not bound its port yet
        return False


def test_metrics_are_complete_and_a_parser_of_prometheus_reads_them(served: RealServer, client: httpx.Client) -> None:
    key = new_key()
    limit = CallerLimit(concurrency=1, waiting=0)
    served.server.limit(Callers(keys=(ApiKey(name="ann", digest=digest_of(key), limit=limit),)))
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(
                httpx.post,
                f"{served.url}/v1/models/fashion:predict",
                json={"instances": pixels(30).tolist()},
                headers={"x-api-key": key},
                timeout=PATIENCE,
            )
            for _ in range(16)
        ]
        assert {one.result().status_code for one in asked} == {200, 429}
    assert client.post("/fashion:predict", json={"instances": pixels(2).tolist()}).status_code == 200
    served.server.limit(None)
    families = {
        family.name: family for family in text_string_to_metric_families(httpx.get(f"{served.url}/metrics").text)
    }

    def value(sample: str, **labels: str) -> float:
        found = [
            one.value
            for family in families.values()
            for one in family.samples
            if one.name == sample and labels.items() <= one.labels.items()
        ]
        assert found, (sample, labels)
        return sum(found)

    of_model: dict[str, str] = {"model": "fashion", "version": "1"}
    assert value("ganglion_requests_total", model="fashion", status="200") >= 2
    assert value("ganglion_request_seconds_count", **of_model) == value(
        "ganglion_request_seconds_bucket", le="+Inf", **of_model
    )
    assert value("ganglion_batches_total", **of_model) >= 2
    assert value("ganglion_instances_total", **of_model) >= 32
    assert value("ganglion_queue_seconds_count", **of_model) >= 2
    replica = next(
        one.labels["replica"] for one in families["ganglion_batch_seconds"].samples if one.labels["model"] == "fashion"
    )
    assert value("ganglion_batch_seconds_count", replica=replica, **of_model) >= 2
    assert value("ganglion_batch_instances_sum", replica=replica, **of_model) >= 32
    assert value("ganglion_limited_total", caller="key ann", limit="concurrency") >= 1
    for gauge in ("ganglion_queue_instances", "ganglion_queue_bytes"):
        assert value(gauge, **of_model) == 0
    assert value("ganglion_replicas", **of_model) == 1
    assert value("ganglion_connections") >= 1
    assert {family.type for family in families.values()} == {"counter", "gauge", "histogram"}
    assert all(family.documentation for family in families.values())


def log_lines(served: RealServer, mark: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    """The lines about paths with this mark and with these fields, once there are so many."""
    end = time.monotonic() + PATIENCE
    while True:
        text = (served.folder / "access.log").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        found = [line for line in lines if mark in line["path"] and fields.items() <= line.items()]
        if len(found) >= count:
            return found
        assert time.monotonic() < end, found


def test_every_request_leaves_a_line_and_no_secret(served: RealServer) -> None:
    ann, stranger = new_key(), new_key()
    served.server.limit(Callers(keys=(ApiKey(name="ann", digest=digest_of(ann)),)))
    url = f"{served.url}/v1/models/no-such-model:predict?token=hidden"
    for key in (ann, stranger, None):
        headers = {"x-api-key": key} if key else {}
        httpx.post(url, json={"instances": [1.0]}, headers=headers, timeout=PATIENCE)
    httpx.post(
        f"{served.url}/v1/models/half_plus_three/versions/1:predict", json={"instances": [1.0]}, timeout=PATIENCE
    )
    served.server.limit(None)
    lines = log_lines(served, "no-such-model", 3)
    assert [(line["method"], line["status"], line["caller"]) for line in lines] == [
        ("POST", 404, "key ann"),
        ("POST", 404, "unknown"),
        ("POST", 404, "anonymous"),
    ]
    (line,) = log_lines(served, "/versions/1:predict", 1, caller="anonymous")
    assert set(line) == {"time", "method", "path", "status", "ms", "received", "sent", "caller"}
    assert (line["status"], line["received"]) == (200, len(b'{"instances":[1.0]}'))
    assert line["sent"] > len(b'{"predictions":[3.5]}')
    assert 0 < line["ms"] < 1000 * PATIENCE
    text = (served.folder / "access.log").read_text()
    assert not [secret for secret in (ann, stranger, "hidden") if secret in text]


def test_an_access_log_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        RealServer(tmp_path, access_log=tmp_path / "missing" / "access.log")
