"""A source that goes away in the middle of an epoch: the training waits, safe in a checkpoint, and goes on."""

import io
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from msgspec.structs import replace
from remote_points import STEPS, write_points
from rich.console import Console

from ganglion.core.events import ExitKind, MemberExited, MemberReported
from ganglion.execution.entry import Entry
from ganglion.testing.faults import Fault, happened
from ganglion.training import Factory, TrainingPlan
from ganglion.training.checkpoints import Archive, Checkpointing
from ganglion.training.progress import ProgressBar

SERVER = Path(__file__).parents[1] / "data" / "loading" / "unsteady_server.py"
AWAY_AFTER = 5


class Server:
    """In a process of its own; says when it was away and back."""

    def __init__(self, folder):
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(folder)], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def event(self, name):
        found, at = self.process.stdout.readline().split()
        assert found == name
        return float(at)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "files"
    folder.mkdir()
    write_points(folder)
    started = Server(folder)
    yield started
    started.process.kill()
    started.process.wait()
    started.process.stdout.close()


@pytest.fixture
def plan(server, sample, tmp_path):
    """Two epochs; the source itself is patient for so long."""

    def make(patience=0.3, **fields):
        points = Factory(
            entry=Entry(path="remote_points:RemotePoints"), arguments={"url": server.url, "patience": patience}
        )
        return TrainingPlan(
            model=sample("linear"),
            train=points,
            held_out=points,
            input_column="features",
            target_column="target",
            loss="mean_squared_error",
            logical_workers=2,
            epochs=2,
            checkpoints=Checkpointing(folder=str(tmp_path / "checkpoints"), shortest=600, longest=600),
            **fields,
        )

    return make


def away(server, plan, seconds):
    """The plan under which the server goes away for so long after some steps."""
    arguments = {"url": server.url, "step": AWAY_AFTER, "seconds": seconds}
    return replace(plan, callbacks=(Factory(entry=Entry(path="remote_points:GoAway"), arguments=arguments),))


class Watcher(list):
    """Keeps events; looks, when it is told of a pause, which checkpoints there are, and what a person sees."""

    def __init__(self, archive):
        super().__init__()
        self.archive = archive
        self.screen = io.StringIO()
        self.bar = ProgressBar(Console(file=self.screen, width=200))
        self.saved = []

    def append(self, event):
        super().append(event)
        self.bar(event)
        if isinstance(event, MemberReported) and "paused" in event.values:
            self.saved.append((event.values["paused"]["step"], self.archive.steps()))

    def told(self, word):
        return [event.values[word] for event in self if isinstance(event, MemberReported) and word in event.values]


@pytest.mark.parametrize(
    ("patience", "seconds"),
    [
        (0.3, 3.0),
        pytest.param(0.3, 20.0, marks=pytest.mark.soak),
        pytest.param(60.0, 20.0, marks=pytest.mark.soak),  # the source waits, and the training finds that it does
    ],
)
def test_the_training_pauses_between_two_steps_and_goes_on_to_the_same_result(
    train, server, plan, tmp_path, patience, seconds
):
    undisturbed = train(replace(plan(patience), checkpoints=None), workers=1)
    undisturbed.raise_for_failure()
    events = Watcher(Archive(tmp_path / "checkpoints"))
    outcome = train(
        away(server, plan(patience), seconds),
        workers=2,
        events=events,
        faults=[Fault(kind="mark", point="commit", attempt=0, times=0)],
    )
    outcome.raise_for_failure()
    assert outcome.value["digest"] == undisturbed.value["digest"]

    begin, end = server.event("away"), server.event("back")
    commits = [(entry.step, entry.at) for entry in happened(tmp_path)]
    assert {step for step, _ in commits} == set(range(2 * STEPS))
    assert not [step for step, at in commits if begin + seconds / 2 < at < end]
    assert {event.exit.kind for event in events if isinstance(event, MemberExited)} == {ExitKind.SUCCESS}

    assert events.saved
    for step, there in events.saved:
        assert AWAY_AFTER <= step <= AWAY_AFTER + 1
        assert step in there
    assert [each["step"] for each in events.told("resumed")] == [step for step, _ in events.saved]
    assert max(each["seconds"] for each in events.told("resumed")) > seconds / 2
    assert "waits for data" in events.screen.getvalue()
    assert "has its data again" in events.screen.getvalue()


def test_a_source_that_is_away_when_workers_start_is_waited_for(train, server, plan, tmp_path):
    undisturbed = train(replace(plan(), checkpoints=None), workers=1)
    with urllib.request.urlopen(f"{server.url}/script/silent/0/4.0"):
        pass
    events = Watcher(Archive(tmp_path / "checkpoints"))
    outcome = train(plan(), workers=2, events=events)
    outcome.raise_for_failure()
    assert outcome.value["digest"] == undisturbed.value["digest"]
    server.event("away")
    server.event("back")
    assert {each["step"] for each in events.told("paused")} == {0}
    assert len(events.told("resumed")) == len(events.told("paused")) >= 1
    assert "waits for data in step 1" in events.screen.getvalue()


def test_a_source_that_stays_away_when_workers_start_ends_the_training(train, server, plan):
    with urllib.request.urlopen(f"{server.url}/script/silent/0/8.0"):
        pass
    ended = train(replace(plan(), patience=0.5), workers=1)
    assert not ended.succeeded
    assert "OutageError" in ended.traceback


def test_a_source_that_stays_away_ends_the_training_which_is_taken_up_when_it_is_back(train, server, plan):
    undisturbed = train(replace(plan(), checkpoints=None), workers=1)
    ended = train(replace(away(server, plan(), 4.0), patience=0.5), workers=2)
    assert not ended.succeeded
    assert "OutageError" in ended.traceback
    server.event("away")
    server.event("back")
    again = train(plan(), workers=1)
    again.raise_for_failure()
    assert again.value["digest"] == undisturbed.value["digest"]
