"""What the supervisor promises to whoever submits a job, on real processes."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import ControlError, SpecError
from ganglion.core.events import Event, JobFinished, MemberExited, MemberReported
from ganglion.core.resources import Resources
from ganglion.execution.entry import entry_of
from ganglion.execution.outcome import JobFailedError, OutcomeState
from ganglion.execution.spec import Restart, Task
from ganglion.execution.supervisor import Supervisor, runtime_folder
from ganglion.testing import entries
from ganglion.testing.recorder import PATIENCE, Recorder, await_gone

SMALL = Resources(cpu=0.25)


def add(name: str = "add") -> Task:
    return Task(id=name, entry=entry_of(entries.add), arguments={"a": 2, "b": 3}, resources=SMALL)


def endless(name: str = "endless", **fields) -> Task:
    return Task(id=name, entry=entry_of(entries.wait_forever), resources=SMALL, grace=0.2, **fields)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(LocalBackend(tmp_path, LocalConfig(cpu=2.0)), tmp_path)
    yield supervisor
    supervisor.close()


def test_an_id_is_taken_while_its_job_lives(supervisor: Supervisor):
    first = supervisor.submit(endless("same"))
    with pytest.raises(ControlError, match="same: the id is taken"):
        supervisor.submit(add("same"))
    first.cancel()
    assert first.wait(PATIENCE).state is OutcomeState.CANCELLED
    assert supervisor.submit(add("same")).wait(PATIENCE).value == 5


def test_a_wait_that_takes_too_long_leaves_the_job_alone(supervisor: Supervisor):
    recorder = Recorder()
    job = supervisor.submit(Task(id="patient", entry=entry_of(entries.echo_message)), recorder)
    with pytest.raises(TimeoutError, match="patient was not over after 0 s"):
        job.wait(0)
    recorder.wait(Event, lambda event: type(event).__name__ == "MemberJoined")
    job.send("go on")
    assert job.wait(PATIENCE).value == "go on"


def test_a_listener_that_raises_hurts_nobody(supervisor: Supervisor):
    def raises(event: Event) -> None:
        raise RuntimeError("a faulty listener")

    recorder = Recorder()
    faulty = supervisor.submit(add("faulty"), raises)
    healthy = supervisor.submit(add("healthy"), recorder)
    assert faulty.wait(PATIENCE).value == healthy.wait(PATIENCE).value == 5
    assert recorder.wait(JobFinished).state == "succeeded"


def test_the_last_event_comes_before_wait_returns(supervisor: Supervisor):
    recorder = Recorder()
    supervisor.submit(add(), recorder).wait(PATIENCE)
    assert isinstance(recorder.events[-1], JobFinished)


def test_a_failure_is_raised_with_the_traceback_of_the_culprit(supervisor: Supervisor):
    job = supervisor.submit(Task(id="fail", entry=entry_of(entries.fail), arguments={"message": "no luck"}))
    with pytest.raises(JobFailedError, match=r"(?s)task-0 exception: ValueError: no luck.*raise ValueError") as caught:
        job.wait(PATIENCE).raise_for_failure()
    assert caught.value.outcome.culprit == "task-0"
    assert caught.value.exit_code == 1


def test_what_can_never_run_is_refused_and_leaves_nothing(supervisor: Supervisor, tmp_path: Path):
    with pytest.raises(SpecError, match="3 CPUs of 2"):
        supervisor.submit(Task(id="large", entry=entry_of(entries.add), resources=Resources(cpu=3.0)))
    assert not (tmp_path / "jobs").exists()
    assert supervisor.submit(add("large")).wait(PATIENCE).succeeded


@pytest.mark.parametrize("arguments", [{"a": object()}, {"a": 2**70}, {1: 2}], ids=["object", "huge", "key"])
def test_arguments_that_are_not_plain_data_are_refused(supervisor: Supervisor, arguments: dict):
    with pytest.raises(SpecError, match="odd"):
        supervisor.submit(Task(id="odd", entry=entry_of(entries.add), arguments=arguments))
    assert supervisor.submit(add()).wait(PATIENCE).succeeded


def test_logs_tell_attempts_apart(supervisor: Supervisor):
    spec = Task(
        id="twice",
        entry=entry_of(entries.fail),
        arguments={"message": "again"},
        restart=Restart(budget=1, backoff=0.01),
    )
    recorder = Recorder()
    job = supervisor.submit(spec, recorder)
    job.wait(PATIENCE)
    assert [event.attempt for event in recorder.of(MemberExited)] == [1, 2]
    assert list(job.logs(attempt=3)) == []
    assert {(name, attempt) for name, attempt, _chunk in job.logs()} <= {("task-0", 1), ("task-0", 2)}


def test_closing_cancels_what_runs_and_what_waits(tmp_path: Path):
    supervisor = Supervisor(LocalBackend(tmp_path, LocalConfig(cpu=0.25)), tmp_path)
    recorder = Recorder()
    running = supervisor.submit(endless("running"), recorder)
    waiting = supervisor.submit(endless("waiting"))
    pids = recorder.wait(MemberReported).values["pids"]
    supervisor.close()
    assert running.wait(0).state is waiting.wait(0).state is OutcomeState.CANCELLED
    assert waiting.wait(0).exits == {}
    await_gone(pids)


def test_a_closed_supervisor_takes_no_job_and_closes_twice(tmp_path: Path):
    supervisor = Supervisor(LocalBackend(tmp_path), tmp_path)
    supervisor.close()
    supervisor.close()
    with pytest.raises(ControlError, match="late: the supervisor is closed"):
        supervisor.submit(add("late"))


def test_events_of_many_jobs_stay_apart_and_in_order(supervisor: Supervisor):
    recorders = {f"job-{n}": Recorder() for n in range(6)}
    jobs = [
        supervisor.submit(
            Task(id=name, entry=entry_of(entries.report_steps), arguments={"count": 200}, resources=SMALL), recorder
        )
        for name, recorder in recorders.items()
    ]
    for job in jobs:
        assert job.wait(PATIENCE).succeeded
    for name, recorder in recorders.items():
        assert {event.job for event in recorder.events} == {name}
        assert [event.values["step"] for event in recorder.of(MemberReported)] == list(range(200))


def test_jobs_are_submitted_from_any_thread(supervisor: Supervisor):
    values: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: values.append(supervisor.submit(add(f"t-{n}")).wait(PATIENCE).value))
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert values == [5] * 5


def test_the_token_is_private_and_goes_with_the_supervisor(tmp_path: Path):
    path = tmp_path / "control" / "main.token"
    supervisor = Supervisor(LocalBackend(tmp_path), tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) == 32
    supervisor.close()
    assert not path.exists()


def test_a_token_left_by_a_supervisor_that_was_killed_is_kept(tmp_path: Path):
    """What it left running knows no other."""
    path = tmp_path / "control" / "main.token"
    path.parent.mkdir()
    path.write_text("left-behind")
    supervisor = Supervisor(LocalBackend(tmp_path), tmp_path)
    assert supervisor.submit(add()).wait(PATIENCE).value == 5
    assert path.read_text() == "left-behind"
    supervisor.close()


def test_the_runtime_folder_is_short_private_and_one_for_each_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    first, second = runtime_folder(deep), runtime_folder(tmp_path)
    assert first != second
    assert first == runtime_folder(deep)
    assert len(first.name) < 40
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert first.stat().st_uid == os.getuid()
