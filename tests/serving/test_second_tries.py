"""Requests whose replica died: tried again within a budget, and kept for inspection where they are the cause."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.quarantine import Quarantine
from ganglion.serving.gateway.retry_budget import RetryBudget
from ganglion.serving.payload import CallPayload, Payload
from ganglion.serving.routes import ReplicaEnd
from ganglion.serving.wire import Call

Make = Callable[[], ScriptedReplica]


def tensors(*rows: float) -> Payload:
    return Payload(tensors={"x": np.array([[row, 0.0] for row in rows], np.float32)})


def keep(quarantine: Quarantine, payload: Payload) -> Path | None:
    return quarantine.keep(payload, model="m", version=1, reason="it ends replicas")


def test_a_request_that_ends_two_replicas_is_answered_and_kept_for_its_owner_only(
    gateway: GatewayThread, replicas: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    body = {"instances": [[666.0, 1.0]]}
    with ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{gateway.port}/v1/models/m:predict"
        asked = pool.submit(httpx.post, url, json=body, timeout=PATIENCE)
        for generation in (1, 2):
            replica = replicas()
            gateway.serve(replica, generation=generation, quarantine=str(folder))
            replica.next()
            replica.die()
        answer = asked.result(PATIENCE)
    assert (answer.status_code, answer.json()["error"]) == (
        500,
        "This request ended 2 replicas and is not tried again.",
    )
    until, log = time.monotonic() + PATIENCE, ""
    while "request_quarantined" not in log and time.monotonic() < until:
        log += capfd.readouterr().err
        time.sleep(0.01)
    (file,) = folder.iterdir()
    assert str(file) in log
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o700, 0o600]
    with np.load(file) as kept:
        assert kept["x"].tolist() == [[666.0, 1.0]]
        about = json.loads(str(kept["about"]))
    assert (about["model"], about["version"], about["instances"]) == ("m", 1, 1)


@pytest.mark.parametrize("heard", ["before the death is seen", "after it"])
def test_a_request_whose_replicas_were_killed_from_outside_is_tried_again(
    gateway: GatewayThread, replicas: Make, tmp_path: Path, heard: str
) -> None:
    folder = tmp_path / "kept"
    ends: list[ReplicaEnd] = []
    url = f"http://127.0.0.1:{gateway.port}/v1/models/m:predict"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, json={"instances": [[7.0, 1.0]]}, timeout=PATIENCE)
        for generation in (1, 2):
            replica = replicas()
            gateway.serve(replica, generation=generation, quarantine=str(folder), ends=ends)
            replica.next()
            ends.append(ReplicaEnd(replica.route.id, outside=True))
            if heard == "before the death is seen":
                gateway.apply(routes(model("m", (replica,), quarantine=str(folder), ends=ends), generation=generation))
            replica.die()
        last = replicas()
        gateway.serve(last, generation=3, quarantine=str(folder), ends=ends)
        assert last.echo() == [7.0]
        answer = asked.result(PATIENCE)
    assert answer.json() == {"predictions": [7.0]}
    assert not folder.exists()


def test_one_death_from_outside_excuses_no_other(gateway: GatewayThread, replicas: Make) -> None:
    url = f"http://127.0.0.1:{gateway.port}/v1/models/m:predict"
    ends: list[ReplicaEnd] = []
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, json={"instances": [[7.0, 1.0]]}, timeout=PATIENCE)
        for generation, outside in enumerate((False, True, False), start=1):
            replica = replicas()
            gateway.serve(replica, generation=generation, ends=ends)
            replica.next()
            ends.append(ReplicaEnd(replica.route.id, outside))
            replica.die()
        gateway.apply(routes(model("m", (), ends=ends), generation=4))
        answer = asked.result(PATIENCE)
    assert (answer.status_code, answer.json()["error"]) == (
        500,
        "This request ended 3 replicas and is not tried again.",
    )


def test_the_arguments_of_a_function_are_kept_under_their_names(tmp_path: Path) -> None:
    merge = Call("merge", "user:merge", ("0", "1"))
    payload = CallPayload(merge, {"0/y": np.array([1.0]), "1/y": np.array([2.0, 3.0])})
    path = keep(Quarantine(tmp_path / "kept"), payload)
    assert path is not None
    with np.load(path) as kept:
        assert [kept["0/y"].tolist(), kept["1/y"].tolist()] == [[1.0], [2.0, 3.0]]


def test_images_are_kept_as_they_came(tmp_path: Path) -> None:
    path = keep(Quarantine(tmp_path / "kept"), Payload(images=[b"one", b"other"]))
    assert path is not None
    with np.load(path) as kept:
        assert [kept[f"image-{number}"].tobytes() for number in range(2)] == [b"one", b"other"]


def test_the_folder_is_bounded_and_the_first_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    first = [keep(Quarantine(folder, most_files=3), tensors(number)) for number in range(3)]
    assert None not in first
    assert keep(Quarantine(folder, most_files=3), tensors(9)) is None
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert keep(Quarantine(folder, most_bytes=size), tensors(9)) is None
    assert set(folder.iterdir()) == set(first)


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("a file")
    assert keep(Quarantine(tmp_path / "kept"), tensors(1)) is None
    assert "quarantine_failed" in capfd.readouterr().err


@given(steps=st.lists(st.one_of(st.just("request"), st.floats(0.0, 1.0)), max_size=300))
def test_retries_stay_within_a_fifth_of_the_requests_ten_a_second_and_the_reserve(steps: list[str | float]) -> None:
    budget, now, requests, retries = RetryBudget(0.0), 0.0, 0, 0
    for step in steps:
        if step == "request":
            budget.deposit()
            requests += 1
        else:
            now += float(step)
        while budget.withdraw(now):
            retries += 1
            assert retries <= 200 + 0.2 * requests + 10.0 * now + 1e-6
    assert retries >= 200 or not steps


def test_when_the_budget_is_spent_the_rest_is_refused_with_a_hint(gateway: GatewayThread, replicas: Make) -> None:
    dying = replicas()
    gateway.serve(dying, max_batch=4)
    pool = next(gateway.gateway.catalog.pools())
    while pool._second_tries._budget.withdraw(time.monotonic()):
        pass
    url = f"http://127.0.0.1:{gateway.port}/v1/models/m:predict"
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, url, json={"instances": [[1.0, 0.0]]}, timeout=PATIENCE)
        dying.next()
        while pool._second_tries._budget.withdraw(time.monotonic()):
            pass
        dying.die()
        answer = asked.result(PATIENCE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "too many requests" in answer.json()["error"]
