"""The local backend beyond the contract: zygotes, wardens that die, long paths, and what is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import SpecError
from ganglion.core.events import ExitKind, MemberReady, MemberReported, MemberStarted
from ganglion.core.resources import Resources
from ganglion.execution.entry import entry_of
from ganglion.execution.member import connect
from ganglion.execution.outcome import OutcomeState
from ganglion.execution.spec import Numerics, Service, Task
from ganglion.execution.supervisor import Supervisor, runtime_folder
from ganglion.testing import entries
from ganglion.testing.contract import PATIENCE, Recorder, await_gone

SMALL = Resources(cpu=0.25)


@contextlib.contextmanager
def supervised(folder: Path, start_method: str = "fork") -> Iterator[Supervisor]:
    supervisor = Supervisor(LocalBackend(folder, LocalConfig(cpu=2.0, start_method=start_method)), folder)
    try:
        yield supervisor
    finally:
        supervisor.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with supervised(tmp_path) as supervisor:
        yield supervisor


def task(name: str, function=entries.add, **fields) -> Task:
    fields.setdefault("arguments", {"a": 2, "b": 3} if function is entries.add else {})
    return Task(id=name, entry=entry_of(function), resources=SMALL, **fields)


def zygote(supervisor: Supervisor, name: str, **fields) -> int:
    """The process that this task was forked from."""
    recorder = Recorder()
    job = supervisor.submit(task(name, entries.echo_message, **fields), recorder)
    parent = psutil.Process(recorder.wait(MemberStarted).pid).ppid()
    job.cancel()
    job.wait(PATIENCE)
    return parent


# zygotes


def test_members_with_the_same_numerics_come_from_one_zygote(supervisor: Supervisor):
    first = zygote(supervisor, "first", preload=("json", "wave"))
    assert zygote(supervisor, "same", preload=("json", "wave")) == first
    assert zygote(supervisor, "fewer", preload=("wave",)) == first
    assert zygote(supervisor, "none") == first


def test_other_numerics_and_other_preloads_need_another_zygote(supervisor: Supervisor):
    first = zygote(supervisor, "first", preload=("json",))
    assert zygote(supervisor, "threads", preload=("json",), numerics=Numerics(threads=2)) != first
    assert zygote(supervisor, "instructions", numerics=Numerics(instructions="default")) != first
    assert zygote(supervisor, "more", preload=("json", "wave")) != first


def test_what_was_preloaded_is_there_before_the_entry(supervisor: Supervisor):
    def loaded(name: str, preload: tuple[str, ...]) -> bool:
        spec = task(name, entries.loaded, arguments={"module": "wave"}, preload=preload)
        return supervisor.submit(spec).wait(PATIENCE).value

    assert loaded("without", ()) is False
    assert loaded("with", ("wave",)) is True


def test_a_module_that_is_not_there_is_no_reason_to_fail(supervisor: Supervisor):
    assert supervisor.submit(task("missing", preload=("no_such_module",))).wait(PATIENCE).value == 5


@pytest.mark.parametrize("kind", ["python", "native"])
def test_a_preload_that_starts_a_thread_is_refused_with_the_reason(supervisor, tmp_path, monkeypatch, kind):
    """A fork would copy locks that nobody will ever release."""
    start = {
        "python": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        "native": "import ctypes\nlibc = ctypes.CDLL(None)\nthread = ctypes.c_ulong()\n"
        "libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)\n",
    }[kind]
    (tmp_path / f"starts_a_{kind}_thread.py").write_text(start)
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = supervisor.submit(task("threaded", preload=(f"starts_a_{kind}_thread",))).wait(PATIENCE)
    assert outcome.state is OutcomeState.FAILED
    assert "after its preloads the zygote has 2 threads and cannot be forked safely" in outcome.message
    assert supervisor.submit(task("next", numerics=Numerics(threads=2))).wait(PATIENCE).succeeded


def test_a_preload_that_fails_leaves_the_error_to_the_member(supervisor, tmp_path, monkeypatch):
    (tmp_path / "raises_at_import.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert supervisor.submit(task("raises", preload=("raises_at_import",))).wait(PATIENCE).value == 5


def test_variables_that_come_too_late_are_refused(supervisor: Supervisor):
    with pytest.raises(SpecError, match=r"OMP_NUM_THREADS in the environment comes too late.*use numerics"):
        supervisor.submit(task("late", environment={"OMP_NUM_THREADS": "4"}))


def test_numerics_reach_the_process(supervisor: Supervisor):
    spec = task("four", entries.environment, arguments={"name": "MKL_NUM_THREADS"}, numerics=Numerics(threads=4))
    assert supervisor.submit(spec).wait(PATIENCE).value == "4"


# wardens that die


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_members_go_with_their_warden_and_the_next_task_gets_a_new_one(tmp_path: Path, start_method: str):
    with supervised(tmp_path, start_method) as supervisor:
        recorder = Recorder()
        job = supervisor.submit(task("orphan", entries.wait_forever), recorder)
        pids = recorder.wait(MemberReported).values["pids"]
        warden = psutil.Process(recorder.wait(MemberStarted).pid).parent()
        warden.send_signal(signal.SIGKILL)
        outcome = job.wait(PATIENCE)
        assert outcome.exits["task-0"].kind is ExitKind.LOST
        assert "the process that had started it was killed" in outcome.message
        await_gone(pids)
        assert supervisor.submit(task("next")).wait(PATIENCE).value == 5
        with contextlib.suppress(psutil.NoSuchProcess):
            assert warden.status() != psutil.STATUS_ZOMBIE


# folders


def test_a_project_folder_may_be_deeper_than_a_socket_path(tmp_path: Path):
    deep = tmp_path / ("a" * 120) / ("b" * 120)
    deep.mkdir(parents=True)
    with supervised(deep) as supervisor:
        assert supervisor.submit(task("deep")).wait(PATIENCE).value == 5
        recorder = Recorder()
        service = Service(id="service", entry=entry_of(entries.serve_pid), resources=SMALL)
        supervisor.submit(service, recorder)
        with connect(recorder.wait(MemberReady).endpoint, PATIENCE) as client:
            assert client.recv(64).startswith(b"replica-0 ")


def test_two_services_of_one_project_answer_for_themselves(supervisor: Supervisor):
    answers = {}
    for name in ("one", "two"):
        recorder = Recorder()
        supervisor.submit(Service(id=name, entry=entry_of(entries.serve_pid), resources=SMALL), recorder)
        answers[recorder.wait(MemberReady).endpoint] = recorder.wait(MemberStarted).pid
    for endpoint, pid in answers.items():
        with connect(endpoint, PATIENCE) as client:
            assert client.recv(64).decode().split() == ["replica-0", str(pid)]


def test_each_attempt_keeps_its_log_and_its_evidence(supervisor: Supervisor, tmp_path: Path):
    supervisor.submit(task("lines", entries.write_lines, arguments={"count": 2, "label": "x"})).wait(PATIENCE)
    folder = tmp_path / "jobs" / "lines" / "task-0" / "1"
    assert (folder / "log").read_text() == "x 0\nx 1\n"
    assert {path.name for path in folder.iterdir()} == {"log", "process", "report.msgpack", "evidence.msgpack"}


def test_no_token_is_left_in_the_folder_of_an_attempt(tmp_path: Path):
    with supervised(tmp_path, "spawn") as supervisor:
        supervisor.submit(task("secret")).wait(PATIENCE)
        token = (tmp_path / "control" / "main.token").read_bytes()
    files = [path for path in (tmp_path / "jobs").rglob("*") if path.is_file()]
    assert len(files) == 4
    assert not [path for path in files if token in path.read_bytes()]


# nothing is left behind


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts file descriptors in /proc")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_nothing_is_left_behind(tmp_path: Path, start_method: str):
    """No process, no socket, no file descriptor: after success, failure, a killed replica and a killed warden."""

    def use(folder: Path) -> None:
        with supervised(folder, start_method) as supervisor:
            supervisor.submit(task("good")).wait(PATIENCE)
            supervisor.submit(task("bad", entries.fail, arguments={"message": "no"})).wait(PATIENCE)
            recorder = Recorder()
            supervisor.submit(Service(id="service", entry=entry_of(entries.serve_pid), resources=SMALL), recorder)
            pid = recorder.wait(MemberStarted).pid
            recorder.wait(MemberReady)
            os.kill(pid, signal.SIGKILL)
            again = recorder.wait(MemberStarted, lambda event: event.attempt == 2)
            recorder.wait(MemberReady, lambda event: event.attempt == 2)
            psutil.Process(again.pid).parent().kill()
            recorder.wait(MemberReady, lambda event: event.attempt == 3)

    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    use(tmp_path / "warm-up")
    before = open_files()
    others = psutil.Process().children(recursive=True)  # such as what other tests of the session share
    folder = tmp_path / "project"
    use(folder)
    assert open_files() == before
    assert set(psutil.Process().children(recursive=True)) <= set(others)
    assert list(runtime_folder(folder).iterdir()) == []
    runtime_folder(folder).rmdir()
