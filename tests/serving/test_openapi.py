"""The gateway's description of itself, and requests made from it by schemathesis."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import httpx
import orjson
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes
from jsonschema.validators import Draft202012Validator

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec
from ganglion.serving.callers import CallerLimit, Callers
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.openapi import Served, document
from ganglion.serving.gateway.openapi_schemas import examples_request, infer_request, predict_request
from ganglion.serving.gateway.tensorflow_examples import parse_examples
from ganglion.serving.gateway.tensorflow_rest import parse_predict
from ganglion.serving.routes import EnsembleRoute, VersionRoute

CHECKS = (
    "no_fault_of_ours",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "what_fits_is_accepted",
    "unsupported_method",
    "ignored_auth",
)


@pytest.fixture
def answering(gateway: GatewayThread) -> Iterator[tuple[GatewayThread, ScriptedReplica]]:
    """A gateway whose replica answers everything."""
    replica, over = ScriptedReplica(), threading.Event()

    def echo() -> None:
        while not over.is_set():
            try:
                batch, x = replica._batches.get(timeout=0.05)
            except Empty:
                continue
            replica.answer(batch, x[:, 0])

    thread = threading.Thread(target=echo)
    thread.start()
    yield gateway, replica
    over.set()
    thread.join()
    replica.die()


def schemathesis(port: int, folder: Path, *arguments: str) -> str:
    """Ask for everything that the document describes; what is printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--phases", "coverage,fuzzing", "--generation-database", "none", *arguments),
        ],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "openapi_checks", "PYTHONPATH": str(Path(__file__).parent)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        (r"/(v1/models/m:predict|v2/models/m/infer)$", 3),
        pytest.param("/", 300, marks=[pytest.mark.soak, pytest.mark.timeout(1300)]),
    ],
)
def test_requests_made_from_the_document_are_answered_as_it_says(
    answering: tuple[GatewayThread, ScriptedReplica], tmp_path: Path, paths: str, count: int
) -> None:
    gateway, replica = answering
    keys = Callers(anonymous=CallerLimit())
    gateway.apply(routes(model("m", [replica]), callers=keys))
    gateway.wait_connected(1)
    arguments = ("--include-path-regex", paths, f"--max-examples={count}")
    output = schemathesis(gateway.port, tmp_path, "--checks", ",".join(CHECKS), *arguments)
    assert f"{22 if paths == '/' else 2} selected" in output, output


def test_every_path_of_the_document_is_there_and_nothing_more(
    gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]
) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE) as client:
        assert client.get("/openapi.json").status_code == 503
        labelled = model("m", [replicas()], labels={"champion": 1, "gone": 7})
        both = EnsembleRoute(name="a b", members=("m",))
        gateway.apply(routes(labelled, model("n", [], default=None, state="END"), ensembles=[both]))
        gateway.wait_connected(1)
        described = client.get("/openapi.json").json()
        assert client.head("/openapi.json").headers["content-type"] == "application/json"
        paths = described["paths"]
        assert {
            "/v1/models/m/labels/champion:predict",
            "/v1/models/a%20b:predict",
            "/v2/models/m/versions/1/infer",
        } <= set(paths)
        assert not [path for path in paths if "gone" in path or "/n" in path], "what cannot be asked is not described"
        for path, operations in paths.items():
            (method,) = operations
            status = client.request(method, path, content=b"{}" if method == "post" else None).status_code
            expected = 400 if method == "post" else 503 if path in ("/readyz", "/v2/health/ready") else 200
            assert status == expected, path  # n is not ready
            other = "GET" if method == "post" else "POST"
            assert client.request(other, path).status_code == 405
        gateway.apply(routes(labelled, generation=2, callers=Callers(anonymous=None)))
        secured = client.get("/openapi.json").json()["paths"]
        assert "/v1/models/a%20b:predict" not in secured, "the document follows the routes"
        assert secured["/v1/models/m:predict"]["post"]["security"] == [{"bearer": []}, {"key": []}]
        assert "security" not in secured["/v1/models/m"]["get"]


SCORES = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("y", "float32", (-1, 3)),))
IMAGES = Signature((TensorSpec("x", "uint8", (-1, 2, 2)),), (TensorSpec("y", "float16", (-1, 1)),))
PAIR = Signature(
    (TensorSpec("a", "bool", (-1,)), TensorSpec("b", "int64", (-1, -1, 2))),
    (TensorSpec("y", "float64", (-1,)), TensorSpec("z", "uint64", (-1, -1))),
)
WORDS = Signature((TensorSpec("w", "string", (-1, 2)),), (TensorSpec("y", "float32", (-1, 1)),))
VERSIONS = [
    VersionRoute(version=1, state="AVAILABLE", signature=SCORES, classes=("a", "b", "c")),
    VersionRoute(version=1, state="AVAILABLE", signature=IMAGES, image=ImageInput(2, 2, "L")),
    VersionRoute(version=1, state="AVAILABLE", signature=PAIR),
    VersionRoute(version=1, state="AVAILABLE", signature=WORDS),
]


@pytest.mark.parametrize("version", VERSIONS, ids=["scores", "images", "pair", "words"])
def test_every_schema_of_the_document_is_a_schema(version: VersionRoute) -> None:
    found: list[Any] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            found.extend([value["schema"]] if isinstance(value.get("schema"), dict) else [])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(document([Served("m", version, [version])], Callers(), "0"))
    assert len(found) > 50
    for schema in found:
        Draft202012Validator.check_schema(schema)


ROWS: list[tuple[int, Any]] = [
    (0, {"instances": [[1, 2.5], [3e38, -3e38]]}),
    (0, {"instances": [{"x": [1, 2]}], "signature_name": "serving_default"}),
    (0, {"inputs": {"x": [[1, 2]]}}),
    (0, {"inputs": [[1, 2]]}),
    (0, {"instances": [[1, 2, 3]]}),
    (0, {"instances": [[1, 4e38]]}),
    (0, {"instances": [[1, True]]}),
    (0, {"instances": []}),
    (0, {"instances": [[1, 2]], "inputs": [[1, 2]]}),
    (0, {"instances": [[1, 2]], "more": 1}),
    (0, {"instances": [[1, 2]], "signature_name": "other"}),
    (1, {"instances": [[[1, 2], [3, 255]]]}),
    (1, {"instances": [[[1.0, 2], [3, 255.0]]]}),
    (1, {"instances": [[[1.5, 2], [3, 4]]]}),
    (1, {"instances": [[[1, 2], [3, 256]]]}),
    (1, {"instances": [{"b64": "AAAAA"}]}),
    (1, {"instances": [{"b64": "AAA_"}]}),
    (1, {"instances": [{"b64": "AA=="}]}),
    (1, {"instances": [{"b64": "AA A"}]}),
    (1, {"instances": [[[1, 2], [3, -1]]]}),
    (1, {"instances": [{"image_bytes": {"b64": "AAAA"}}]}),
    (1, {"instances": [{"b64": "AAAA"}]}),
    (1, {"inputs": {"image_bytes": [{"b64": "AAAA"}]}}),
    (1, {"instances": [{"image_bytes": "AAAA"}]}),
    (2, {"instances": [{"a": True, "b": [[1, 2], [3, 4]]}]}),
    (2, {"instances": [{"a": 1, "b": [[1, 2]]}]}),
    (2, {"instances": [{"a": True}]}),
    (2, {"inputs": {"a": [True], "b": [[[1, 2]]]}}),
    (3, {"instances": [["a", {"b64": "w7w="}]]}),
    (3, {"instances": [{"w": ["a", ""]}]}),
    (3, {"inputs": [["a", "b"]]}),
    (3, {"inputs": {"w": [["a", "b"]]}}),
    (3, {"instances": [["a"]]}),
    (3, {"instances": [["a", 1]]}),
    (3, {"instances": [["a", None]]}),
    (3, {"instances": [["a", {"b64": "w7w"}]]}),
    (3, {"instances": [["a", {"b64": "w7w=", "c": 1}]]}),
    (3, {"instances": [{"image_bytes": {"b64": "AAAA"}}]}),
    (3, {"instances": [{"b64": "AAAA"}]}),
    (3, {"inputs": {"image_bytes": [{"b64": "AAAA"}]}}),
]


@pytest.mark.parametrize(("which", "body"), ROWS, ids=range(len(ROWS)))
def test_the_schema_of_predict_accepts_what_is_accepted(which: int, body: Any) -> None:
    version = VERSIONS[which]
    described = Draft202012Validator(predict_request(version)).is_valid(body)
    try:
        parse_predict(orjson.dumps(body), version.signature, version.image)
        accepted = True
    except RequestError:
        accepted = False
    assert described == accepted


EXAMPLES: list[tuple[int, Any]] = [
    (0, {"examples": [{"x": [1, 2]}, {"x": [3, 4]}]}),
    (0, {"context": {"x": [1, 2]}, "examples": [{}, {}]}),
    (0, {"context": {"x": [1, 2]}, "examples": [{"x": [1, 2]}]}),
    (0, {"examples": [{"x": 1}]}),
    (0, {"examples": [{"x": [[1, 2]]}]}),
    (0, {"examples": [{}]}),
    (0, {"examples": []}),
    (0, {"instances": [[1, 2]]}),
    (1, {"examples": [{"x": [1, 2, 3, 4]}]}),
    (1, {"examples": [{"image_bytes": {"b64": "AAAA"}}]}),
    (1, {"examples": [{"image_bytes": {"b64": "AAAA"}}, {"b64": "AAAA"}]}),
    (1, {"examples": [{"image_bytes": {"b64": "AAAA"}}, {"x": [1, 2, 3, 4]}]}),
    (3, {"examples": [{"w": ["a", {"b64": "w7w="}]}]}),
    (3, {"examples": [{"w": ["a", 1]}]}),
    (3, {"examples": [{"w": "a"}]}),
    (3, {"examples": [{"b64": "w7w="}]}),
]


@pytest.mark.parametrize(("which", "body"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_schema_of_examples_accepts_what_is_accepted(which: int, body: Any) -> None:
    version = VERSIONS[which]
    described = Draft202012Validator(examples_request(version)).is_valid(body)
    try:
        parse_examples(orjson.dumps(body), version.signature, version.image)
        accepted = True
    except RequestError:
        accepted = False
    assert described == accepted


def test_the_schema_of_inference_is_that_of_the_protocol() -> None:
    schema = Draft202012Validator(infer_request(VERSIONS[0]))
    good = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    assert schema.is_valid({"inputs": [good], "id": "seven", "outputs": [{"name": "y"}]})
    assert schema.is_valid({"inputs": [good | {"data": [[1, 2]]}]})
    for wrong in (
        {"name": "z"},
        {"datatype": "FP64"},
        {"shape": [2]},
        {"shape": [1, 3]},
        {"data": ["1", "2"]},
        {"data": []},
    ):
        assert not schema.is_valid({"inputs": [good | wrong]}), wrong
    assert not schema.is_valid({"inputs": [good], "outputs": [{"name": "z"}]})
    assert not schema.is_valid({"inputs": [good], "outputs": [{"name": "y"}] * 2})
