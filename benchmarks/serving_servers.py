"""The servers that are measured: how each is started, what it is asked, and when it is ready."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from benchmarks.data.peers.environments import TORCH, Environment
from benchmarks.serving_models import BenchModel
from benchmarks.serving_processes import end, start

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("onnxruntime==1.31.1", "orjson==3.13.0", "numpy==2.4.6")
PATIENCE = 120.0
"""Seconds that a server may take until its first answer."""


class ServerFailedError(Exception):
    """A server did not start or answers wrongly; says how."""


class ServingEnvironment(Environment):
    """As those of the other benchmarks, in a place of its own: what lies beside the peer is another matter here."""

    @property
    def folder(self) -> Path:
        """Where the environment lies."""
        folder = super().folder
        return folder.with_name(f"serving-{folder.name}")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A way to serve a model.

    Attributes:
        name: for a person.
        program: module below `benchmarks.serving_peers`.
        workers: processes that predict.
        environment: what it runs in; `None` for this interpreter.
        path: what is asked.
        tensors: asked in the form of the Open Inference Protocol, not of TensorFlow Serving.
        target: the smallest ratio of our rate to its that is wanted at 8 and 32 connections.
    """

    name: str
    program: str
    workers: int
    environment: Environment | None
    path: str = "/v1/models/m:predict"
    tensors: bool = False
    target: float | None = None


OURS = (
    Server(name="Ganglion, 1 replica", program="ganglion_server", workers=1, environment=None),
    Server(name="Ganglion, 1 replica, fused", program="ganglion_fused", workers=1, environment=None),
    Server(name="Ganglion, 1 replica, 2 gateways, fused", program="ganglion_pair", workers=1, environment=None),
    Server(name="Ganglion, 2 replicas", program="ganglion_server", workers=2, environment=None),
)

_UVICORN = ServingEnvironment(
    package="uvicorn", version="0.54.0", beside=("uvloop==0.23.0", "httptools==0.9.0", *BESIDE)
)
_GRANIAN = ServingEnvironment(package="granian", version="2.8.7", beside=("uvloop==0.23.0", *BESIDE))

FLOORS = (
    Server(name="uvicorn + ONNX Runtime, 1 worker", program="uvicorn_floor", workers=1, environment=_UVICORN),
    Server(
        name="Granian + ONNX Runtime, 2 workers", program="granian_floor", workers=2, environment=_GRANIAN, target=1.2
    ),
    Server(name="Fused pair of our parts", program="fused_pair", workers=2, environment=None, target=0.9),
)

_LITSERVE = ServingEnvironment(package="litserve", version="0.2.19", beside=BESIDE)
_MLSERVER = ServingEnvironment(
    package="mlserver",
    version="1.7.1",
    beside=("uvloop==0.21.0", "onnxruntime", "orjson"),  # with a newer uvloop its parallel workers end at their start
)
_BENTOML = ServingEnvironment(package="bentoml", version="1.4.38", beside=BESIDE)
_KSERVE = ServingEnvironment(package="kserve", version="0.21.0", beside=("onnxruntime", "orjson"))
_TORCHSERVE = ServingEnvironment(
    package="torchserve",
    version="0.12.0",
    beside=("torch-model-archiver==0.12.0", TORCH, "pyyaml", "setuptools", *BESIDE),
)
RAY_ENVIRONMENT = ServingEnvironment(package="ray", version="2.60.0", extra="[serve]", beside=BESIDE)

PEERS = (
    Server(
        name="TorchServe, 2 workers",
        program="torchserve_peer",
        workers=2,
        environment=_TORCHSERVE,
        path="/predictions/m",
        target=3.5,
    ),
    Server(name="KServe server, 2 workers", program="kserve_peer", workers=2, environment=_KSERVE, target=3.5),
    *(
        Server(
            name=name,
            program="mlserver_peer",
            workers=workers,
            environment=_MLSERVER,
            path="/v2/models/m/infer",
            tensors=True,
            target=7.0,
        )
        for name, workers in (("MLServer, 1 process", 0), ("MLServer, 2 parallel workers", 2))
    ),
    Server(
        name="LitServe, 2 workers",
        program="litserve_peer",
        workers=2,
        environment=_LITSERVE,
        path="/predict",
        target=8.0,
    ),
    Server(
        name="BentoML, 2 workers", program="bentoml_peer", workers=2, environment=_BENTOML, path="/predict", target=15.0
    ),
    Server(
        name="Ray Serve, 2 replicas", program="ray_peer", workers=2, environment=RAY_ENVIRONMENT, path="/m", target=25.0
    ),
    Server(
        name="Ray Serve with HAProxy, 2 replicas",
        program="ray_haproxy_peer",
        workers=2,
        environment=RAY_ENVIRONMENT,
        path="/m",
        target=25.0,
    ),
)


class RunningServer:
    """A server from its start to its end.

    Attributes:
        url: what is asked, by POST.
        body: the file with the question.
        cold_start: seconds from the start of the program to the first right answer.

    Args:
        server: which.
        model: what it serves.
        folder: for its files and its log.

    Raises:
        NotInstallableError: its environment cannot be made.
        ServerFailedError: it gave no right answer in time.
    """

    def __init__(self, server: Server, model: BenchModel, folder: Path) -> None:
        python = Path(sys.executable) if server.environment is None else server.environment.python()
        folder.mkdir(parents=True, exist_ok=True)
        self.body = folder / "body.json"
        self.body.write_bytes(model.tensor() if server.tensors else model.rows())
        self._expected = model.expected
        self._temporary = tempfile.TemporaryDirectory(prefix="gb-")  # short: sockets have short paths
        self._log_path = folder / "log"
        self._log = self._log_path.open("wb")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{server.path}"
        began = time.perf_counter()
        self._process = start(
            [
                str(python),
                *("-m", f"benchmarks.serving_peers.{server.program}"),
                *(str(port), str(model.onnx), model.dtype, str(server.workers)),
            ],
            environment=os.environ
            | {"PYTHONPATH": str(ROOT), "TMPDIR": self._temporary.name, "OMP_NUM_THREADS": "1"}
            | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
            folder=ROOT,
            log=self._log,
        )
        try:
            self._wait()
        except BaseException:  # also when the benchmark is told to end meanwhile
            self.close()
            raise
        self.cold_start = time.perf_counter() - began

    @property
    def memory(self) -> int:
        """Bytes of its processes; pages that several of them share are counted once."""
        members = [process for process in psutil.process_iter() if _session(process.pid) == self._process.pid]
        total = 0
        for process in (*members, *psutil.Process(self._process.pid).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process not in members or _session(process.pid) == self._process.pid:
                    total += process.memory_full_info().pss
        return total

    def workers(self) -> list[psutil.Process]:
        """The processes below the one that was started, without those that only keep resources for them."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # a zombie counts as such
                    if "resource_tracker" not in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def close(self) -> None:
        """End it, and after a while whatever is left of it."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
        end(self._process)
        for process in family:  # those with a session of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._log.close()
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self) -> None:
        """Ask until the answer is right."""
        end, problem = time.perf_counter() + PATIENCE, "no answer"
        while time.perf_counter() < end:
            if self._process.poll() is not None:
                raise ServerFailedError(f"it ended with {self._process.returncode}: {self._last_words()}")
            try:
                given = self._ask()
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
                time.sleep(0.02)
                continue
            if not np.allclose(given, self._expected, atol=1e-4):
                raise ServerFailedError(f"it answers {given}, which is wrong")
            return
        raise ServerFailedError(f"no right answer within {PATIENCE:g} s: {problem}; {self._last_words()}")

    def _ask(self) -> Any:
        request = urllib.request.Request(
            self.url, self.body.read_bytes(), {"content-type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10.0) as response:
            answer = json.load(response)
        if "outputs" in answer:
            return answer["outputs"][0]["data"]
        return answer["predictions"][0]

    def _last_words(self) -> str:
        lines = self._log_path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
