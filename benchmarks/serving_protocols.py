"""One large tensor over every protocol: `python -m benchmarks.serving_protocols [--json] [--repetitions N]`.

An image of 224x224x3 float32 (602 kB as binary) is sent to a model that does next to nothing, over one connection at a
time; the ways take turns. Bodies are made beforehand, so that the server is measured and not the client. The target:
binary tensors are at least five times as fast as our own JSON. Access log and gRPC are measured beside it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.harness import Case, environment, measure, show
from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.execution.supervisor import Supervisor
from ganglion.serving.controller import ModelServer
from ganglion.serving.grpc import messages
from ganglion.serving.repository import ModelRepository

SHAPE = (224, 224, 3)
TARGET = 5.0
_REQUESTS = 8
"""Requests in each repetition of a way; the time of one is their median."""

_SMALL = Resources(cpu=0.1)


def write_model(folder: Path) -> None:
    """A package that gives the mean of each channel."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    path = folder.parent / "means.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    signature = Signature((TensorSpec("x", "float32", (-1, *SHAPE)),), (TensorSpec("y", "float32", (-1, 3)),))
    write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": path})


def timed(ask: Callable[[], Any]) -> Callable[[], float]:
    """The median time of one of several requests, in seconds."""

    def run() -> float:
        seconds = []
        for _ in range(_REQUESTS):
            began = time.perf_counter()
            ask()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    return run


def over_http(url: str, path: str, body: bytes, means: np.ndarray, **headers: str) -> Callable[[], None]:
    """A request over a kept connection; its answer is checked once."""
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)

    def ask() -> bytes:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: {answer.decode()}")
        return answer

    answer = json.loads(ask())
    given = answer["predictions"][0] if "predictions" in answer else answer["outputs"][0]["data"]
    np.testing.assert_allclose(given, means, rtol=1e-3)
    return lambda: void(ask())


def over_grpc(address: str, image: np.ndarray, means: np.ndarray, *, raw: bool) -> Callable[[], None]:
    """A call over a kept channel; its answer is checked once."""
    message = messages.ModelInferRequest(model_name="means")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, *SHAPE])
    if raw:
        message.raw_input_contents.append(image.tobytes())
    else:
        tensor.contents.fp32_contents.extend(image.reshape(-1).tolist())
    body = message.SerializeToString()
    call = grpc.insecure_channel(address).unary_unary(f"/{messages.SERVICE}/ModelInfer")
    first = messages.ModelInferResponse.FromString(call(body, timeout=60, wait_for_ready=True))
    np.testing.assert_allclose(np.frombuffer(first.raw_output_contents[0], np.float32), means, rtol=1e-3)
    return lambda: void(call(body, timeout=60))


def void(_answer: bytes) -> None:
    """Nothing is done with it."""


def cases(server: ModelServer, logging: ModelServer) -> list[Case]:
    """Every way to ask, the first one that of the comparison."""
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    means = image.mean(axis=(0, 1))
    count = math.prod(SHAPE)
    rows = json.dumps({"instances": [image.tolist()]}).encode()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, *SHAPE]}
    flat = json.dumps({"inputs": [tensor | {"data": image.reshape(-1).tolist()}]}).encode()
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 4 * count}}]}).encode()
    binary = head + image.tobytes()
    predict, infer = "/v1/models/means:predict", "/v2/models/means/infer"
    length = {"Inference-Header-Content-Length": str(len(head))}
    assert server.grpc is not None
    ours = f"JSON, rows ({len(rows) / 1e6:.1f} MB)"
    v2 = "v2 binary"
    return [
        Case(name=ours, run=timed(over_http(server.url, predict, rows, means))),
        Case(
            name=f"v2 JSON ({len(flat) / 1e6:.1f} MB)",
            run=timed(over_http(server.url, infer, flat, means)),
            against=ours,
        ),
        Case(
            name=v2,
            run=timed(over_http(server.url, infer, binary, means, **length)),
            against=ours,
            note=f"target: {TARGET:g} times as fast",
        ),
        Case(name="v2 gRPC, raw", run=timed(over_grpc(server.grpc.address, image, means, raw=True)), against=v2),
        Case(name="v2 gRPC, typed", run=timed(over_grpc(server.grpc.address, image, means, raw=False)), against=v2),
        Case(
            name="v2 binary, access log",
            run=timed(over_http(logging.url, infer, binary, means, **length)),
            against=v2,
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_protocols", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--repetitions", type=int, default=10, help="rounds that count")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ganglion-protocols-") as name:
        folder = Path(name)
        repository = ModelRepository(folder / "models")
        write_model(folder / "package")
        repository.publish("means", folder / "package")
        supervisor = Supervisor(LocalBackend(folder / "g", LocalConfig(cpu=4)), folder / "g")
        servers = [
            ModelServer(supervisor, repository, gateway=_SMALL, grpc_port=0),
            ModelServer(supervisor, repository, gateway=_SMALL, access_log=folder / "access.log"),
        ]
        try:
            for server in servers:
                server.deploy("means", replicas=1, resources=_SMALL)
            measurements = measure(cases(*servers), options.repetitions)
        finally:
            for server in servers:
                server.close()
            supervisor.close()
    context = environment(["ganglion", "grpcio", "protobuf", "numpy", "onnxruntime"])
    show("One image of 224x224x3 float32, one connection", measurements, context, as_json=options.json)


if __name__ == "__main__":
    main()
