"""The reference pipeline, as a newcomer runs it: real data, real processes, a real service."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ganglion.core.run_events import MetricReported, ResourcesSampled, StepFinished, StepUpdated
from ganglion.workflow.journal import read_journal

from .conftest import RECIPE, SMALL, Command, descendants

pytestmark = pytest.mark.timeout(300)
Event = Any
AT_WORK = (MetricReported, ResourcesSampled)
LONGER = ("--limit", "4000", "--set", "epochs=2", "--set", "minimum=0")
TRAININGS = ("plain", "dropout", "batch-norm")


def steps_of(document: Any) -> dict[str, Any]:
    return {step["name"]: step for step in document["steps"]}


def test_the_reference_pipeline_twice(ganglion: Command) -> None:
    first = ganglion.json("run", str(RECIPE), *SMALL)
    steps = steps_of(first)
    assert first["state"] == "succeeded"
    assert {name: step["state"] for name, step in steps.items()} == dict.fromkeys(
        ("ingest", *TRAININGS, "select", "publish", "serve", "ask"), "succeeded"
    )
    assert all(len(step["attempts"]) >= 1 and step["end"] >= step["start"] for step in steps.values())
    assert "miss" in steps["ingest"]["cache"]
    assert all(0 < steps[name]["metrics"]["accuracy"] <= 1 for name in TRAININGS)

    # The three trainings overlap: the processes of each are seen at work before those of any have ended.
    journal = read_journal(ganglion.home / "runs" / first["id"])
    seen = [[event.at for event in journal if isinstance(event, AT_WORK) and event.step == name] for name in TRAININGS]
    assert max(min(times) for times in seen) < min(max(times) for times in seen)

    # The answers have the true labels beside them.
    assert [answer["record"] for answer in first["value"]] == list(range(10))
    assert [answer["truth"] for answer in first["value"]][:3] == ["Ankle boot", "Pullover", "Trouser"]

    # Later the record says the same.
    later = ganglion.json("runs", "show", first["id"])
    assert later == {name: value for name, value in first.items() if name not in ("value", "url")}

    # Nothing has changed: what can be skipped is skipped, what serves is served again.
    second = ganglion.json("run", str(RECIPE), *SMALL)
    again = steps_of(second)
    assert second["id"] != first["id"]
    assert {name: again[name]["state"] for name in ("ingest", *TRAININGS)} == dict.fromkeys(
        ("ingest", *TRAININGS), "cached"
    )
    assert "hit" in again["ingest"]["cache"]
    assert [answer["predicted"] for answer in second["value"]] == [answer["predicted"] for answer in first["value"]]


def wait_for(runs: Path, kind: type, step: str, matches: Callable[[Event], bool] = lambda _event: True) -> Event:
    """Wait until the only run has an event of this kind and step."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for event in (event for run in runs.glob("*") for event in read_journal(run)):
            if isinstance(event, kind) and event.step == step and matches(event):
                return event
        time.sleep(0.05)
    raise AssertionError(f"no {kind.__name__} of {step}")


def test_a_killed_orchestrator_costs_nothing_that_was_finished(ganglion: Command) -> None:
    orchestrator = ganglion.start("run", str(RECIPE), *LONGER)
    for name in TRAININGS:
        wait_for(ganglion.home / "runs", MetricReported, name, lambda event: event.name == "progress")
    children = descendants(orchestrator.pid)
    assert len(children) >= 6
    orchestrator.send_signal(signal.SIGKILL)
    orchestrator.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive

    document = ganglion.json("run", str(RECIPE), *LONGER)
    assert document["state"] == "succeeded"
    assert len(list((ganglion.home / "runs").iterdir())) == 1, "the same run goes on"
    steps = steps_of(document)
    assert [attempt["state"] for attempt in steps["ingest"]["attempts"]] == ["succeeded"]
    for name in TRAININGS:
        assert [attempt["state"] for attempt in steps[name]["attempts"]] == ["lost", "succeeded"]
    assert len(document["value"]) == 10


def test_the_first_model_answers_while_others_train(ganglion: Command) -> None:
    """The models of the reference pipeline, trained for so different times that the order is certain."""
    staggered = Path(__file__).with_name("staggered.py")
    ganglion.environment["PYTHONPATH"] = str(RECIPE.parent)
    orchestrator = ganglion.start("run", str(staggered), "--limit", "1500")
    runs = ganglion.home / "runs"
    try:
        url = wait_for(runs, StepUpdated, "serve").result["fields"]["url"]
        with urllib.request.urlopen(f"{url}/v1/models/fashion", timeout=30) as answer:
            status = json.load(answer)["model_version_status"]
        assert status[0]["state"] == "AVAILABLE"
        journal = read_journal(next(runs.iterdir()))
        assert [event.step for event in journal if isinstance(event, StepFinished)] == ["ingest", "short"]
        assert orchestrator.wait(100) == 0
    finally:
        orchestrator.kill()
        orchestrator.wait()
    members = [
        event.result["fields"]["members"]["items"]
        for event in read_journal(next(runs.iterdir()))
        if isinstance(event, (StepUpdated, StepFinished)) and event.step == "serve"
    ]
    assert members[0] == ["fashion-short"]
    assert sorted(members[-1]) == ["fashion-long", "fashion-short"], "the service follows"
