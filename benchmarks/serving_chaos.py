"""Nothing lost: `python -m benchmarks.serving_chaos [--json] [--scene replicas|gateways|peers] [--requests N]`.

Every request asks about a number of its own, in an open loop at 70 % of the measured peak, and every answer is checked:
its status, that it came once, and that it is right for the version that it names, which has not been replaced before
the request was sent.

- `replicas`: 20 replicas are killed and 5 stopped (SIGSTOP) meanwhile, and 10 versions rolled out.
- `gateways`: one gateway of two is killed every 10 s for 2 minutes; a generator that tries nothing again counts what
  was lost, `ganglion.Client` asks beside it.
- `peers`: 10,000 requests to servers of others, whose workers are killed by the same schedule.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper

from benchmarks.data.peers.environments import NotInstallableError
from benchmarks.harness import environment
from benchmarks.serving_chaos_load import BEGUN, STEP, Floor
from benchmarks.serving_models import BenchModel
from benchmarks.serving_servers import FLOORS, PEERS, ROOT, RunningServer, Server, ServerFailedError
from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.events import Event, MemberExited, MemberReady, MemberStarted
from ganglion.core.resources import Resources
from ganglion.execution.spec import AnySpec
from ganglion.execution.supervisor import Job, Supervisor
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository

KILLS, STOPS, ROLLOUTS = 20, 5, 10
SHARE = 0.7
"""Of the peak rate."""

SHARE_BESIDE, SHARE_CLIENT = 0.35, 0.1
"""Of the peak rate: what is asked without retries, and by the client beside it, whose threads take far more processor
time for a request. Together they leave the cores some room, as the load of the other scene does."""

_TRIAL = 8000
"""Requests by which the peak is measured."""

_PEER_SECONDS = 25.0
"""Seconds for the requests to a peer, at least: a worker needs a while to come back."""

_CHAOS_PEERS = ("Granian + ONNX Runtime, 2 workers", "KServe server, 2 workers")
_SMALL = Resources(cpu=0.1)


class Members(Supervisor):
    """A supervisor that knows which processes are ready."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalBackend(folder, LocalConfig(cpu=8)), folder)
        self._started: dict[tuple[str, str, int], int] = {}
        self._ready: set[tuple[str, str, int]] = set()

    def submit(self, spec: AnySpec, listener: Callable[[Event], None] | None = None) -> Job:
        """Run `spec`, and follow its members."""

        def listen(event: Event) -> None:
            match event:
                case MemberStarted(job=job, member=member, attempt=attempt, pid=pid):
                    self._started[job, member, attempt] = pid
                case MemberReady(job=job, member=member, attempt=attempt):
                    self._ready.add((job, member, attempt))
                case MemberExited(job=job, member=member, attempt=attempt):
                    self._ready.discard((job, member, attempt))
            if listener is not None:
                listener(event)

        return super().submit(spec, listen)

    def pids(self, part: str) -> list[int]:
        """Ready processes of the jobs whose names begin like this."""
        return sorted(
            self._started[key] for key in tuple(self._ready) if key[0].startswith(part) and key in self._started
        )


@contextlib.contextmanager
def service(*, gateways: int, versions: int) -> Iterator[tuple[ModelServer, Members]]:
    """A server of two replicas of the first version; the others are published."""
    with tempfile.TemporaryDirectory(prefix="ganglion-chaos-") as temporary:
        folder = Path(temporary)
        repository = ModelRepository(folder / "models")
        for version in range(1, versions + 1):
            write_adder(folder / f"version-{version}", version)
            repository.publish("m", folder / f"version-{version}")
        supervisor = Members(folder / "g")
        server = ModelServer(supervisor, repository, gateways=gateways, gateway=_SMALL)
        try:
            server.deploy("m", 1, replicas=2, resources=_SMALL)
            yield server, supervisor
        finally:
            server.close()
            supervisor.close()


def write_adder(folder: Path, version: int) -> None:
    """A package whose answer says by itself to which question and by which version it was given."""
    signature = Signature(
        inputs=(TensorSpec("image", "float32", (-1, 1)),), outputs=(TensorSpec("sum", "float32", (-1, 1)),)
    )
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "offset"], ["sum"])],
        "adder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 1])],
        [onnx.numpy_helper.from_array(np.array(version * STEP, np.float32), "offset")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "model.onnx")
        onnx.save(model, str(file))
        write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": file})


class Generator:
    """The process that asks.

    Args:
        url: of the prediction.
        floor: file of the version that answers at least.
        arguments: further ones of `benchmarks.serving_chaos_load`.
    """

    def __init__(self, url: str, floor: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks.serving_chaos_load", url, "--floor", str(floor), *arguments]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == BEGUN

    @property
    def over(self) -> bool:
        """Whether it has asked everything."""
        return self._process.poll() is not None

    def result(self) -> dict[str, Any]:
        """What it counted, once it is through; it asks no more than what it was told to from now on."""
        words, _nothing = self._process.communicate()
        if self._process.returncode != 0:
            raise ServerFailedError("the generator failed")
        found: dict[str, Any] = json.loads(words)
        return found


def failures(found: dict[str, Any]) -> dict[str, int]:
    """What went wrong with requests, by kind; a connection that is refused is tried again before anything is asked."""
    apart = ("right", "connection refused")
    return {what: count for what, count in found["counts"].items() if what not in apart and count}


def lose_replicas(requests: int, at_most: float, share: float) -> dict[str, Any]:
    """The first scene at a share of the peak, with fewer requests where so many would take longer than `at_most`."""
    with service(gateways=1, versions=ROLLOUTS + 1) as (server, members), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "floor")
        floor = Floor(file)
        floor.version = 1
        url = f"{server.url}/v2/models/m/infer"
        trial = Generator(url, file, "--versioned", "--requests", str(_TRIAL)).result()
        rate = share * _TRIAL / trial["seconds"]
        requests = min(requests, int(rate * at_most))
        asking = Generator(url, file, "--versioned", "--requests", str(requests), "--rate", str(rate), "--go-on")
        done = disturb(server, members, floor, asking, requests / rate)
        found = asking.result()
    return {"peak": rate / share, "rate": rate, **done, **found, "failures": failures(found)}


def disturb(server: ModelServer, members: Members, floor: Floor, asking: Generator, seconds: float) -> dict[str, Any]:
    """Kill, stop and roll out, spread evenly over so many seconds or more, in an order that chance gives."""
    chance = random.Random(0)
    actions = ["kill"] * KILLS + ["stop"] * STOPS
    chance.shuffle(actions)
    began = time.monotonic()
    done = {"kills": 0, "stops": 0, "rollouts": 0}
    stopped: set[int] = set()

    def roll_out() -> None:
        for number in range(ROLLOUTS):
            _sleep_until(began + seconds * (0.05 + 0.85 * number / ROLLOUTS))
            server.update("m", number + 2)
            floor.version = number + 2
            done["rollouts"] += 1

    rolling = threading.Thread(target=roll_out)
    rolling.start()
    for number, action in enumerate(actions):
        _sleep_until(began + seconds * (0.05 + 0.9 * number / len(actions)))
        _strike(members, asking, chance, stopped, action)
        done[f"{action}s"] += 1
    rolling.join()
    return done


def _strike(members: Members, asking: Generator, chance: random.Random, stopped: set[int], action: str) -> None:
    """Kill or stop a replica that is ready; one that is stopped already is left to the supervisor."""
    while True:
        if asking.over:
            raise ServerFailedError("the generator ended before the schedule did")
        pids = [pid for pid in members.pids("serve-m-") if pid not in stopped]
        if not pids:
            time.sleep(0.01)
            continue
        pid = chance.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if action == "kill" else signal.SIGSTOP)
            if action == "stop":
                stopped.add(pid)
            return


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def lose_gateways(seconds: float, every: float) -> dict[str, Any]:
    """The second scene."""
    with service(gateways=2, versions=1) as (server, members), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "floor")
        Floor(file).version = 1
        url = f"{server.url}/v2/models/m/infer"
        trial = Generator(url, file, "--versioned", "--requests", str(_TRIAL)).result()
        rate = SHARE_BESIDE * _TRIAL / trial["seconds"]
        requests = min(STEP - 1, int(rate * seconds))
        raw = Generator(url, file, "--versioned", "--requests", str(requests), "--rate", str(rate))
        beside = rate * SHARE_CLIENT / SHARE_BESIDE
        client = Generator(server.url, file, "--client-seconds", str(seconds), "--rate", str(beside))
        kills, next_kill = 0, time.monotonic() + every
        while not raw.over and kills < int(seconds / every):
            _sleep_until(next_kill)
            next_kill += every
            pids = members.pids("gateway-")
            if pids:
                os.kill(pids[kills % len(pids)], signal.SIGKILL)
                kills += 1
        plain, retried = raw.result(), client.result()
    lost = failures(plain)
    return {
        "kills": kills,
        "rate": rate,
        "without retries": {**plain, "failures": lost, "availability": plain["counts"]["right"] / plain["requests"]},
        "ganglion.Client": {**retried, "failures": failures(retried)},
    }


def lose_workers(requests: int) -> list[dict[str, Any]]:
    """The third scene: workers that are killed by the schedule of the replicas."""
    servers = [server for server in (*FLOORS, *PEERS) if server.name in _CHAOS_PEERS]
    found = []
    with tempfile.TemporaryDirectory(prefix="ganglion-chaos-") as temporary:
        folder = Path(temporary)
        write_adder(folder / "package", 1)
        model = BenchModel(
            name="adder", package=folder / "package", pixels=[0], shape=(1,), dtype="float32", expected=[float(STEP)]
        )
        for number, server in enumerate(servers):
            try:
                found.append(_lose_workers_of(server, model, folder / str(number), requests))
            except (ServerFailedError, NotInstallableError) as error:
                found.append({"server": server.name, "problem": str(error)})
    return found


def _lose_workers_of(server: Server, model: BenchModel, folder: Path, requests: int) -> dict[str, Any]:
    chance = random.Random(0)
    with RunningServer(server, model, folder) as running:
        file = folder / "floor"
        Floor(file).version = 1
        trial = Generator(running.url, file, "--requests", "2000").result()
        rate = min(SHARE * 2000 / trial["seconds"], requests / _PEER_SECONDS)
        asking = Generator(running.url, file, "--requests", str(requests), "--rate", str(rate))
        began, kills = time.monotonic(), 0
        for number in range(KILLS):
            _sleep_until(began + requests / rate * (0.05 + 0.9 * number / KILLS))
            workers = running.workers()
            if workers and not asking.over:
                with contextlib.suppress(psutil.NoSuchProcess):
                    chance.choice(workers).kill()
                    kills += 1
        counted = asking.result()
    return {"server": server.name, "rate": rate, "kills": kills, **counted, "failures": failures(counted)}


def main() -> None:
    """Run scenes and write what was counted as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--scene", choices=("replicas", "gateways", "peers"), action="append")
    parser.add_argument("--requests", type=int, default=STEP - STEP % 1000)
    parser.add_argument("--at-most", type=float, default=3600.0, help="seconds for the scene of the replicas")
    parser.add_argument("--share", type=float, default=SHARE, help="of the peak rate, for the scene of the replicas")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the scene of the gateways")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills of a gateway")
    chosen = parser.parse_args()
    scenes = chosen.scene or ["replicas", "gateways", "peers"]
    document: dict[str, Any] = {"environment": environment(["onnxruntime", "uvloop"])}
    if "replicas" in scenes:
        document["replicas"] = lose_replicas(chosen.requests, chosen.at_most, chosen.share)
    if "gateways" in scenes:
        document["gateways"] = lose_gateways(chosen.seconds, chosen.every)
    if "peers" in scenes:
        document["peers"] = lose_workers(min(chosen.requests, 10_000))
    text = msgspec.json.encode(document)
    sys.stdout.write((text if chosen.json else msgspec.json.format(text)).decode() + "\n")


if __name__ == "__main__":
    main()
