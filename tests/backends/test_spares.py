"""Processes that wait for their plan: nobody notices them, but that tasks start at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.backends.processes.spare import SparePolicy
from ganglion.backends.processes.wire import StartMember
from ganglion.core.events import AnyEvent, ExitKind, MemberReported, MemberStarted
from ganglion.core.resources import Resources
from ganglion.execution.backend import Launch
from ganglion.execution.entry import Entry, entry_of
from ganglion.execution.outcome import Outcome
from ganglion.execution.spec import Service, Task, plan_members
from ganglion.execution.supervisor import Supervisor
from ganglion.testing import entries
from ganglion.testing.recorder import PATIENCE, Recorder, await_gone

MIB = 2**20
SMALL = Resources(cpu=0.25)


class Machine:
    """A supervisor on the local backend, and its one warden."""

    def __init__(self, supervisor: Supervisor) -> None:
        others = psutil.Process().children()  # such as what other tests of the session share
        self.supervisor = supervisor
        self.pids: list[int] = []
        self.run("first", entry_of(entries.add), a=2, b=3)
        [self.warden] = set(psutil.Process().children()).difference(others)

    def run(self, job: str, entry: Entry, /, *, spec: dict[str, Any] | None = None, **arguments: Any) -> Outcome:
        fields = {"resources": SMALL, **(spec or {})}
        task = Task(id=job, entry=entry, arguments=arguments, **fields)
        recorder = Recorder()
        outcome = self.supervisor.submit(task, recorder).wait(PATIENCE)
        self.pids += [event.pid for event in recorder.of(MemberStarted)]
        return outcome

    def spares(self) -> list[int]:
        """The processes that wait, once there are enough of them and they sleep."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.warden.children()
            if len(found) > 1 and all(map(_sleeps, found)):
                return [child.pid for child in found]
            assert time.monotonic() < deadline, found
            threading.Event().wait(0.01)


def _sleeps(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_SLEEPING
    return False


@pytest.fixture(params=["fork", "spawn"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    supervisor = Supervisor(LocalBackend(tmp_path, LocalConfig(cpu=2.0, start_method=request.param)), tmp_path)
    yield Machine(supervisor)
    supervisor.close()


def test_a_task_is_run_by_a_process_that_waited_and_no_process_runs_two(machine: Machine):
    for number in range(6):
        waiting = machine.spares()
        assert machine.run(f"task-{number}", entry_of(entries.add), a=2, b=3).value == 5
        assert machine.pids[-1] in waiting
    assert len(set(machine.pids)) == 7


def test_processes_that_die_while_they_wait_lose_no_task_and_are_replaced(machine: Machine):
    killed = machine.spares()
    for pid in killed:
        psutil.Process(pid).kill()
    await_gone(killed)
    assert machine.run("next", entry_of(entries.add), a=2, b=3).value == 5
    assert not set(killed) & {*machine.spares(), *machine.pids}


def test_what_one_task_is_given_the_next_does_not_have(machine: Machine):
    """Environment, session, log and memory limit are those of its plan, whatever process it finds."""
    waiting = machine.spares()
    variable = entry_of(entries.environment)
    assert machine.run("green", variable, spec={"environment": {"COLOUR": "green"}}, name="COLOUR").value == "green"
    assert machine.run("none", variable, name="COLOUR").value is None
    assert set(machine.pids[1:]) <= set(waiting)

    machine.spares()
    allocate = entry_of(entries.allocate)
    little = {"resources": Resources(cpu=0.25, memory=100 * MIB)}
    limited = machine.run("limited", allocate, spec=little, amount=400 * MIB)
    assert limited.exits["task-0"].kind is ExitKind.OUT_OF_MEMORY
    assert machine.run("free", allocate, amount=400 * MIB).succeeded

    waiting = machine.spares()
    recorder = Recorder()
    job = machine.supervisor.submit(Task(id="session", entry=entry_of(entries.wait_forever), grace=0.1), recorder)
    recorder.wait(MemberReported)
    pid = recorder.wait(MemberStarted).pid
    assert pid in waiting
    assert os.getpgid(pid) == pid
    job.cancel()
    job.wait(PATIENCE)

    machine.spares()
    spec = Task(id="lines", entry=entry_of(entries.write_lines), arguments={"count": 4, "label": "line"})
    job = machine.supervisor.submit(spec)
    assert job.wait(PATIENCE).succeeded
    assert b"".join(chunk for *_, chunk in job.logs()) == b"line 0\nline 1\nline 2\nline 3\n"


def test_a_module_that_changed_while_processes_waited_is_the_new_one(machine: Machine, tmp_path: Path):
    module = tmp_path / "changing.py"
    values = []
    for text in ("1", "2 + 20"):
        machine.spares()
        module.write_text(f"def value():\n    return {text}\n")
        spec = {"import_path": (str(tmp_path),)}
        values.append(machine.run(f"task-{text[0]}", Entry(path="changing:value"), spec=spec).value)
    assert values == [1, 22]


def test_processes_do_not_share_random_numbers(machine: Machine):
    machine.spares()
    values = {machine.run(f"task-{number}", Entry(path="random:random")).value for number in range(3)}
    assert len(values) == 3


def test_a_folder_that_cannot_be_made_is_the_end_of_the_attempt_and_of_nothing_else(machine: Machine, tmp_path: Path):
    machine.spares()
    (tmp_path / "jobs" / "blocked").touch()
    outcome = machine.run("blocked", entry_of(entries.add), a=2, b=3)
    assert "could not be started" in outcome.message
    assert machine.run("next", entry_of(entries.add), a=2, b=3).value == 5
    machine.spares()


def test_processes_that_wait_end_with_their_backend(machine: Machine):
    waiting = machine.spares()
    machine.supervisor.close()
    await_gone([*waiting, machine.warden.pid])


@pytest.mark.parametrize("factory", ["forking", "spawning"])
def test_processes_that_wait_end_with_a_controller_that_is_killed(tmp_path: Path, factory: str):
    spec = Task(id="endless", entry=entry_of(entries.wait_forever))
    controller = subprocess.Popen(
        [
            *(sys.executable, "-m", "ganglion.testing.controller", f"local_factories:{factory}"),
            *(str(tmp_path), msgspec.json.encode(spec).decode()),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert controller.stdout is not None
    with controller:
        events = (msgspec.json.decode(line, type=AnyEvent) for line in controller.stdout)
        [pid, _child] = next(event.values["pids"] for event in events if isinstance(event, MemberReported))
        warden = psutil.Process(pid).parent()
        assert warden is not None
        deadline = time.monotonic() + PATIENCE
        while len(warden.children()) < 3:
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        processes = [warden.pid, *(child.pid for child in warden.children(recursive=True))]
        controller.kill()
    await_gone(processes)


def asked(spec: Task | Service) -> StartMember:
    launch = Launch(attempt=1, control="", token="")
    return StartMember(key="/x", plan=plan_members(spec)[0], launch=launch, listen_at="", tied=True, use_cgroup=False)


TASK = asked(Task(id="t", entry=entry_of(entries.add)))
SERVICE = asked(Service(id="s", entry=entry_of(entries.wait_forever)))


def test_one_process_waits_until_it_is_known_that_only_services_run():
    policy = SparePolicy(fork=True)
    assert policy.lacking, "one is made before anything is asked for"
    policy.note_spare(1)
    assert not policy.lacking
    policy.note_start(SERVICE, left=0)
    assert not policy.lacking
    early = SparePolicy(fork=True)
    early.note_start(SERVICE, left=0)
    assert not early.lacking


@pytest.mark.parametrize(("fork", "most"), [(True, 4), (False, 2)])
def test_once_a_task_was_asked_for_several_wait_and_are_replaced_at_once(fork: bool, most: int):
    policy = SparePolicy(fork=fork)
    policy.note_start(SERVICE, left=0)
    policy.note_start(TASK, left=0)
    policy.note_start(SERVICE, left=0)
    for count in range(1, most + 1):
        assert policy.lacking
        policy.note_spare(count)
    assert not policy.lacking
    policy.note_start(SERVICE, left=most - 1)
    assert policy.lacking == (most == 2)
    policy.give_up()
    assert not policy.lacking


def test_where_only_services_run_no_process_waits(tmp_path: Path):
    others = psutil.Process().children()
    supervisor = Supervisor(LocalBackend(tmp_path, LocalConfig(cpu=4.0)), tmp_path)
    try:
        service = Service(id="s", entry=entry_of(entries.wait_forever), replicas=2, resources=SMALL, grace=0.1)
        recorder = Recorder()
        job = supervisor.submit(service, recorder)
        pids = {recorder.wait(MemberReported, count=count).values["pids"][0] for count in (1, 2)}
        [warden] = set(psutil.Process().children()).difference(others)
        assert {child.pid for child in warden.children()} == pids
        os.kill(min(pids), signal.SIGKILL)
        again = recorder.wait(MemberReported, count=3).values["pids"][0]
        assert {child.pid for child in warden.children()} == {max(pids), again}
        job.cancel()
        job.wait(PATIENCE)
    finally:
        supervisor.close()


def test_a_rehearsal_leaves_no_trace():
    """No thread, no file, no handler and no variable."""
    program = (
        "import faulthandler, os, signal, threading\n"
        "from ganglion.execution.agent import rehearse\n"
        "def state():\n"
        "    return (threading.active_count(), os.listdir('/dev/fd'), signal.getsignal(signal.SIGTERM),\n"
        "            faulthandler.is_enabled(), dict(os.environ))\n"
        "state()\n"
        "before = state()\n"
        "rehearse()\n"
        "assert state() == before, (before, state())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
