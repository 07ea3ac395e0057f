"""Latency while a new version loads: `python -m benchmarks.serving_rollout [--json] [--rounds N]`.

A model with an embedding table of 200 MB is served by one replica and asked at a steady rate. In every round there is a
while of peace, then a change to the other version; the latencies from the command until the new version answers are set
against those of the peace before. Every other round the loading takes the cores that it can get (`eager`), as it would
without the thread of low priority in `serving.replica`. Wanted: a 99th percentile of at most 1.2 times that of peace.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.execution.spec import Service
from ganglion.execution.supervisor import Supervisor
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository
from ganglion.serving.services import model_service

TARGET = 1.2
PEACE = 3.0
"""Seconds without a change, in every round."""

CALLERS = 4
PAUSE = 0.02
"""Seconds between the beginnings of two requests of one caller."""

ROWS, WIDTH = 400_000, 128
BODY = json.dumps({"instances": [{"words": list(range(0, 3200, 100))}]}).encode()


def write_embedding(folder: Path, seed: int) -> None:
    """A package from 32 numbers of words to ten scores, by a table of 200 MB."""
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(seed)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "words"], ["vectors"]),
            helper.make_node("ReduceMean", ["vectors"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
        ],
        "embedding",
        [helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [
            onnx.numpy_helper.from_array(random.random((ROWS, WIDTH), np.float32), "table"),
            onnx.numpy_helper.from_array(random.random((WIDTH, 10), np.float32), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    file = folder.with_suffix(".onnx")
    file.write_bytes(model.SerializeToString())
    signature = Signature(
        inputs=(TensorSpec("words", "int64", (-1, 32)),), outputs=(TensorSpec("scores", "float32", (-1, 10)),)
    )
    write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": file})
    file.unlink()


def ask_steadily(port: int, pipe: Connection) -> None:
    """In a process of its own: ask until told to stop, then send `(begin, seconds, status is 200)` of every request."""
    head = f"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()
    found: list[tuple[float, float, bool]] = []
    over = threading.Event()

    def ask(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            due = time.monotonic() + number * PAUSE / CALLERS
            while not over.is_set():
                time.sleep(max(0.0, due - time.monotonic()))
                connection.sendall(head + BODY)
                answer = connection.recv(2**16)
                while b"]]}" not in answer and b'"error"' not in answer:
                    answer += connection.recv(2**16)
                found.append((due, time.monotonic() - due, answer.startswith(b"HTTP/1.1 200")))
                due = max(due + PAUSE, time.monotonic())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    pipe.recv()
    over.set()
    for thread in threads:
        thread.join()
    pipe.send(found)


def eager_service(*arguments: Any, **fields: Any) -> Service:
    """The spec of replicas that load as fast as they can."""
    return model_service(*arguments, **{**fields, "gentle": 0})


MAKERS: dict[str, Callable[..., Service]] = {"gentle": model_service, "eager": eager_service}


@dataclass(frozen=True, kw_only=True)
class Round:
    """A while of peace and a change of the version.

    Attributes:
        loading: a name in `MAKERS`.
        steady: seconds of each request in peace.
        changing: of each from the command until the new version answered.
        seconds: that this took.
        failed: requests that were not answered with 200.
    """

    loading: str
    steady: list[float]
    changing: list[float]
    seconds: float
    failed: int


def measure(rounds: int, folder: Path) -> list[Round]:
    """Rounds of both ways of loading, by turns."""
    repository = ModelRepository(folder / "models")
    for seed in (0, 1):
        write_embedding(folder / f"package-{seed}", seed)
        repository.publish("m", folder / f"package-{seed}")
    supervisor = Supervisor(LocalBackend(folder / "g", LocalConfig(cpu=4)), folder / "g")
    server = ModelServer(supervisor, repository)
    try:
        server.deploy("m", 1, replicas=1, resources=Resources(cpu=0.5))
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        generator = multiprocessing.get_context("spawn").Process(
            target=ask_steadily, args=(int(server.url.rpartition(":")[2]), theirs)
        )
        generator.start()
        windows = []
        time.sleep(PEACE)  # the caches and the other process are warm after that
        for number in range(2 * rounds):
            name = ("gentle", "eager")[number % 2]
            began = time.monotonic()
            time.sleep(PEACE)
            changed = time.monotonic()
            with mock.patch("ganglion.serving.fleet.model_service", MAKERS[name]):
                server.update("m", 2 - number % 2)
            windows.append((name, began, changed, time.monotonic()))
            time.sleep(1.0)  # the old version ends
        ours.send(None)
        samples = ours.recv()
        generator.join()
    finally:
        server.close()
        supervisor.close()
    return [
        Round(
            loading=name,
            steady=[seconds for begin, seconds, _good in samples if began <= begin < changed],
            changing=[seconds for begin, seconds, _good in samples if changed <= begin < ended],
            seconds=ended - changed,
            failed=sum(not good for begin, _seconds, good in samples if began <= begin < ended),
        )
        for name, began, changed, ended in windows
    ]


def summarise(rounds: list[Round]) -> dict[str, float]:
    """Percentiles over all rounds of one way of loading: a disturbance of the machine meets both alike, in the end."""
    steady = np.concatenate([round_.steady for round_ in rounds])
    changing = np.concatenate([round_.changing for round_ in rounds])
    found = {
        f"p{percent}_{when}": float(np.percentile(samples, percent))
        for when, samples in (("steady", steady), ("changing", changing))
        for percent in (50, 99)
    }
    return found | {
        "ratio": found["p99_changing"] / found["p99_steady"],
        "seconds": statistics.median(round_.seconds for round_ in rounds),
        "requests": len(steady) + len(changing),
        "failed": sum(round_.failed for round_ in rounds),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--rounds", type=int, default=5, help="changes of the version for each way of loading")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ganglion-rollout-") as folder:
        results = measure(given.rounds, Path(folder))
    summary = {name: summarise([round_ for round_ in results if round_.loading == name]) for name in MAKERS}
    if given.json:
        sys.stdout.write(json.dumps({"environment": environment(("onnxruntime", "uvloop")), "summary": summary}) + "\n")
        return 0
    table = Table(title="Latency while a new version loads (ms, all rounds together)")
    for column in ("loading", "p50 steady", "p50 loading", "p99 steady", "p99 loading", "ratio", "seconds", "failed"):
        table.add_column(column, justify="left" if column == "loading" else "right")
    for name, row in summary.items():
        shown = [f"{1000 * row[key]:.2f}" for key in ("p50_steady", "p50_changing", "p99_steady", "p99_changing")]
        ratio = f"{row['ratio']:.2f}" + (f" (wanted: {TARGET:g})" if name == "gentle" else "")
        table.add_row(name, *shown, ratio, f"{row['seconds']:.1f}", f"{row['failed']:.0f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
