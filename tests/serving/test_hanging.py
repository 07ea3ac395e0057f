"""Which replicas are held to hang, and what becomes of what they were at; nothing here waits for a real one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving import begun, hanging
from ganglion.serving.begun import Begun, BegunReader
from ganglion.serving.gateway.batch_metrics import BatchMetrics
from ganglion.serving.gateway.hanging_watch import HangingWatch
from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.metrics import Metrics
from ganglion.serving.gateway.prediction import Part, Prediction
from ganglion.serving.gateway.replica_link import ReplicaLink, SentBatch
from ganglion.serving.hanging import LEAST, TIMES, Hanging, allowed, hanging_from_data, hanging_since
from ganglion.serving.hanging import hanging_to_data as to_data
from ganglion.serving.payload import CallPayload, Payload
from ganglion.serving.routes import ModelRoute, ReplicaEnd, ReplicaRoute
from ganglion.serving.wire import Call

Make = Callable[[], ScriptedReplica]
seconds = st.floats(0.0, 1000.0)


# the rule


@given(promised=seconds, timeout=seconds, since=seconds, elapsed=seconds)
def test_a_batch_may_take_what_the_model_allows_a_request_and_ten_times_what_is_promised(
    promised: float, timeout: float, since: float, elapsed: float
) -> None:
    now = since + elapsed
    found = hanging_since(0.0, Begun(7, since), allowed(promised, timeout), now)
    assert (found is not None) == (now - since > max(LEAST, timeout, TIMES * promised))


@pytest.mark.parametrize(
    ("at", "hangs"),
    [
        (Begun(7, 60.0), True),
        (Begun(7, 80.0), False),
        (Begun(0, 60.0), True),  # it takes nothing, and might have since 50
        (Begun(0, 94.0), True),  # for which it has no need of as long
        (Begun(0, 98.0), False),
        (None, True),  # held to be at the first
    ],
)
def test_what_a_replica_has_begun_decides(at: Begun | None, hangs: bool) -> None:
    assert (hanging_since(50.0, at, 30.0, 100.0) is not None) == hangs


def test_reports_arrive_as_they_were_sent() -> None:
    told = [Hanging("job/replica-0/1", 6.5)]
    assert hanging_from_data(json.loads(json.dumps(to_data(told)))) == told


# what a replica is at

WRITER = """
import socket, sys
from ganglion.serving.begun import BegunWriter, first_number
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
writer = BegunWriter()
print(first_number(), flush=True)
for line in sys.stdin:
    writer.write(int(line))
    print("written", flush=True)
"""


class Writer:
    """A process that listens at `path`, takes nothing, and says that it is at what a test wants."""

    def __init__(self, path: str) -> None:
        command = [sys.executable, "-c", WRITER, path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first_number = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def write(self, number: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        assert self._line() == "written\n"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate(timeout=PATIENCE)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(str(tmp_path / "s"))
    yield made
    made.kill()


def test_what_a_replica_is_at_is_seen_by_others_and_after_its_death(writer: Writer, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "s"))
        reader = BegunReader.of(connection)
        writer.write(writer.first_number + 3)
        seen = reader.read()
        assert seen is not None
        assert seen.number == writer.first_number + 3
        assert 0.0 <= time.monotonic() - seen.since < PATIENCE
        writer.kill()
        assert reader.read() == seen


class Owner:
    """Keeps what is lost with a replica."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[tuple[list[Part], list[Part]]] = asyncio.get_running_loop().create_future()
        self.free = asyncio.Event()

    def link_free(self, link: ReplicaLink) -> None:
        self.free.set()

    def link_answered(self, link: ReplicaLink, rows: int, seconds: float) -> None:
        raise AssertionError("nothing is answered")

    def link_lost(self, link: ReplicaLink, parts: list[Part], untouched: list[Part]) -> None:
        if not self.lost.done():
            self.lost.set_result((parts, untouched))


@pytest.mark.parametrize(("at", "blamed"), [("the first", 0), ("the second", 1), ("another gateway's", None)])
def test_only_what_a_replica_has_begun_is_lost_by_its_death(
    writer: Writer, tmp_path: Path, at: str, blamed: int | None
) -> None:
    async def lose() -> None:
        owner = Owner()
        link = ReplicaLink(asyncio.get_running_loop(), ReplicaRoute("r", f"unix:{tmp_path / 's'}"), owner)
        await asyncio.wait_for(owner.free.wait(), PATIENCE)
        parts = []
        for number in range(2):
            payload = Payload(tensors={"x": np.array([[number, 0.0]], np.float32)})
            parts += Prediction(lambda _result: None, 0.0, float("inf")).add([payload])
            link.send(parts[-1:])
        numbers = {"the first": link.sent[0].number, "the second": link.sent[1].number}
        writer.write(numbers.get(at, writer.first_number))
        writer.kill()
        lost = await asyncio.wait_for(owner.lost, PATIENCE)
        link.abort()
        assert lost == ([parts[blamed]] if blamed is not None else [], [part for part in parts if part not in lost[0]])

    asyncio.run(lose())


def test_it_is_not_seen_over_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert BegunReader.of(connection).read() is None


# a gateway


def test_one_look_does_not_decide_for_the_answer_may_lie_unread() -> None:
    watch = HangingWatch(LatencyModel(), BatchMetrics(Metrics(), "m", 1))
    payload = Payload(tensors={"x": np.zeros((1, 2), np.float32)})
    prediction = Prediction(lambda _result: None, 0.0, 1.0)
    parts = prediction.add([payload])
    prediction.abandon()
    link: Any = SimpleNamespace(
        route=ReplicaRoute("r", ""), batches=1, sent=[SentBatch(7, parts, 1)], began=0.0, begun=None, begun_parts=parts
    )
    route = ModelRoute(name="m", default=1, versions=(), timeout=30.0)
    assert watch.look([link], route, 29.0) == []
    assert watch.look([link], route, 31.0) == []
    assert watch.look([link], route, 31.5) == [Hanging("r", 31.5)]
    link.began = 31.6  # it went on
    assert watch.look([link], route, 32.0) == []
    for now in (500.0, 500.5, 529.0):
        assert watch.look([link], route, now) == [], "everybody was stopped, perhaps"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hanging, "LEAST", 0.3)
    monkeypatch.setattr(hanging, "TIMES", 1.0)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Asker:
    """Asks the model `m`, with a deadline."""

    def __init__(self, gateway: GatewayThread, threads: ThreadPoolExecutor) -> None:
        self._gateway, self._threads = gateway, threads

    def __call__(self, *numbers: float, within: float = PATIENCE) -> Future[httpx.Response]:
        url = f"http://127.0.0.1:{self._gateway.port}/v1/models/m:predict"
        body = {"instances": [[number, 0.0] for number in numbers]}
        headers = {"x-request-timeout-ms": str(int(1000 * within))}
        return self._threads.submit(httpx.post, url, json=body, headers=headers, timeout=PATIENCE)

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self._gateway.port}/metrics").text


@pytest.fixture
def ask(gateway: GatewayThread, threads: ThreadPoolExecutor) -> Asker:
    return Asker(gateway, threads)


def teach(ask: Asker, *replicas: ScriptedReplica) -> None:
    """Let the gateway learn that a batch takes next to nothing."""
    asked = ask(*range(2 * len(replicas)))
    for replica in replicas:
        replica.echo()
    assert asked.result(PATIENCE).status_code == 200


@pytest.mark.usefixtures("impatient")
def test_a_replica_that_does_not_come_back_is_told_of_and_who_waits_hears_the_truth(
    gateway: GatewayThread, replicas: Make, ask: Asker, capfd: pytest.CaptureFixture[str]
) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=2, timeout=2.0)
    teach(ask, replica)
    poison = ask(666, within=0.8)
    replica.next()
    behind = ask(1, within=1.6)
    assert (poison.result(PATIENCE).status_code, behind.result(PATIENCE).status_code) == (504, 503)
    assert "did not answer within 0.8 s" in poison.result().json()["error"]
    told = behind.result().json()["error"]
    assert f"free within 1.6 s. Replica {replica.route.id!r} has been at one batch for " in told
    (report,) = gateway.hanging.get(timeout=PATIENCE)
    assert report.replica == replica.route.id
    assert report.seconds >= 2.0
    assert 'ganglion_replicas_hanging_total{model="m",version="1"} 1' in ask.metrics()
    assert "replica_hanging" in capfd.readouterr().err


@pytest.mark.usefixtures("impatient")
def test_a_slow_replica_is_not_told_of_because_its_caller_had_no_patience(
    gateway: GatewayThread, replicas: Make, ask: Asker
) -> None:
    replica = replicas()
    gateway.serve(replica, max_batch=2)
    teach(ask, replica)
    slow = ask(5, within=0.2)
    batch, x = replica.next()
    late = ask(6, within=1.7)
    assert (slow.result(PATIENCE).status_code, late.result(PATIENCE).status_code) == (504, 503)
    replica.answer(batch, x[:, 0])
    assert replica.echo() == [6], "it lay there already"
    asked = ask(7)
    assert replica.echo() == [7]
    assert asked.result(PATIENCE).json() == {"predictions": [7]}
    assert gateway.hanging.empty()


@pytest.mark.usefixtures("impatient")
def test_a_request_that_hangs_two_replicas_is_kept_although_nobody_waits_for_it_any_more(
    gateway: GatewayThread, replicas: Make, ask: Asker, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    two = [replicas(), replicas()]
    gateway.serve(*two, max_batch=2, timeout=3.0, quarantine=str(folder))
    teach(ask, *two)
    poison = ask(666, within=2.0)
    for _ in two:  # the second is tried because the first has stalled
        end = time.monotonic() + PATIENCE
        while all(replica.idle for replica in two):
            assert time.monotonic() < end
            time.sleep(0.01)
        next(replica for replica in two if not replica.idle).next()
    assert poison.result(PATIENCE).status_code == 504
    told: set[str] = set()
    while told != {replica.route.id for replica in two}:
        told |= {one.replica for one in gateway.hanging.get(timeout=PATIENCE)}
    for replica in two:
        replica.die()
    ends = [ReplicaEnd(replica.route.id, outside=False, hanging=True) for replica in two]
    fresh = replicas()
    gateway.apply(routes(model("m", (fresh,), max_batch=2, quarantine=str(folder), ends=ends), generation=2))
    asked = ask(1)
    assert fresh.echo() == [1]
    assert asked.result(PATIENCE).json() == {"predictions": [1]}
    end = time.monotonic() + PATIENCE
    while not (folder.exists() and list(folder.iterdir())):
        assert time.monotonic() < end, "it was not kept"
        time.sleep(0.01)
    (file,) = folder.iterdir()
    with np.load(file) as kept:
        assert kept["x"].tolist() == [[666.0, 0.0]]
        assert "This request made 2 replicas hang" in json.loads(str(kept["about"]))["reason"]


def test_what_another_replica_answered_is_blamed_for_nothing(
    gateway: GatewayThread, replicas: Make, ask: Asker, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    three = [replicas() for _ in range(3)]
    gateway.serve(*three, max_batch=2, quarantine=str(folder))
    teach(ask, *three)
    asked = ask(7)
    stopped = []
    for _ in range(2):
        end = time.monotonic() + PATIENCE
        while not (took := [replica for replica in three if replica not in stopped and not replica.idle]):
            assert time.monotonic() < end
            time.sleep(0.01)
        stopped += took
    (last,) = (replica for replica in three if replica not in stopped)
    assert last.echo() == [7]
    assert asked.result(PATIENCE).json() == {"predictions": [7]}
    for replica in stopped:
        replica.die()
    ends = [ReplicaEnd(replica.route.id, outside=False, hanging=True) for replica in stopped]
    gateway.apply(routes(model("m", (last,), max_batch=2, quarantine=str(folder), ends=ends), generation=2))
    asked = ask(8)
    assert last.echo() == [8]
    assert asked.result(PATIENCE).json() == {"predictions": [8]}
    assert not folder.exists()


def test_a_call_of_a_function_may_take_as_long() -> None:
    watch = HangingWatch(LatencyModel(), BatchMetrics(Metrics(), "m", 1))
    prediction = Prediction(lambda _result: None, 0.0, 20.0)
    parts = prediction.add([CallPayload(Call("merge", "user:merge", ("0",)), {"0/y": np.zeros(1)})])
    link: Any = SimpleNamespace(
        route=ReplicaRoute("r", ""), batches=1, sent=[SentBatch(7, parts, 1)], began=0.0, begun=None, begun_parts=parts
    )
    route = ModelRoute(name="m", default=1, versions=(), timeout=30.0)
    prediction.abandon()
    assert [watch.look([link], route, now) for now in (27.0, 28.0, 29.0, 29.9, 30.1)] == [[]] * 5
    assert [one.replica for one in watch.look([link], route, 30.6)] == ["r"]


def test_what_stalled_together_is_tried_alone(gateway: GatewayThread, replicas: Make, ask: Asker) -> None:
    before, stopped, other = replicas(), replicas(), replicas()
    gateway.serve(before, max_batch=2)
    teach(ask, before)
    gateway.serve(generation=2, max_batch=2)  # none: both requests wait
    both = [ask(1), ask(2)]
    end = time.monotonic() + PATIENCE
    while 'ganglion_queue_instances{model="m",version="1"} 2' not in ask.metrics():
        assert time.monotonic() < end
        time.sleep(0.01)
    gateway.serve(stopped, generation=3, max_batch=2)
    assert sorted(stopped.next()[1][:, 0]) == [1, 2]
    gateway.serve(stopped, other, generation=4, max_batch=2)
    assert sorted([other.echo(), other.echo()]) == [[1], [2]]
    assert [asked.result(PATIENCE).json() for asked in both] == [{"predictions": [1]}, {"predictions": [2]}]


def test_a_gateway_that_cannot_look_falls_back_on_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    writer = begun.BegunWriter()
    writer.write(5)  # nowhere
    assert BegunReader(None).read() is None
