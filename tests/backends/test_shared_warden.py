"""A warden that is forked from a small controller: it shares its memory, and is otherwise as a new interpreter is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ganglion.testing.recorder import await_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="members are forked on Linux only")

CONTROLLER = """
import os, signal, sys, threading, types
from pathlib import Path
import msgspec, psutil
from ganglion.core.events import MemberReported
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Numerics, Task
from ganglion.execution.supervisor import Supervisor
from ganglion.testing.recorder import PATIENCE, Recorder

folder, case = Path(sys.argv[1]), sys.argv[2]
sys.modules["loaded_by_the_controller"] = types.ModuleType("loaded_by_the_controller")
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(99))
sys.stdout.write("waits to be written")
over = threading.Event()
if case == "threads":
    threading.Thread(target=over.wait).start()
backend = LocalBackend(folder, LocalConfig(cpu=2.0, start_method="spawn" if case == "spawn" else "fork"))
backend.warm(Numerics(), ("ganglion.testing.entries",), share=case != "alone")
supervisor = Supervisor(backend, folder)


def run(job, path, **arguments):
    entry = Entry(path=path)
    task = Task(id=job, entry=entry, arguments=arguments, resources=Resources(cpu=0.25), import_path=(sys.argv[3],))
    outcome = supervisor.submit(task).wait(PATIENCE)
    assert outcome.succeeded, outcome
    return outcome.value


found = run("state", "shared_warden_entry:state")
found["shared"] = run("shared", "ganglion.testing.entries:loaded", module="loaded_by_the_controller")
found["log"] = (folder / "jobs" / "state" / "task-0" / "1" / "log").read_text()
over.set()
if case == "killed":
    recorder = Recorder()
    entry = Entry(path="ganglion.testing.entries:wait_forever")
    endless = Task(id="endless", entry=entry, resources=Resources(cpu=0.25))
    supervisor.submit(endless, recorder)
    pids = recorder.wait(MemberReported).values["pids"]
    found["processes"] = [*pids, *(process.pid for process in psutil.Process().children(recursive=True))]
    sys.stderr.write(msgspec.json.encode(found).decode())
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
supervisor.close()
sys.stderr.write(msgspec.json.encode(found).decode())
"""


def control(folder: Path, case: str, **how: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    """Run a controller in a process of its own; `how` goes to `subprocess.run`."""
    done = subprocess.run(
        [sys.executable, "-c", CONTROLLER, str(folder), case, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **how,
    )
    return done, msgspec.json.decode(done.stderr)


@pytest.mark.parametrize(("case", "shared"), [("forked", True), ("alone", False), ("threads", False), ("spawn", False)])
def test_what_the_controller_has_loaded_is_shared_where_that_is_safe_and_nothing_else_is(
    tmp_path: Path, case: str, shared: bool
) -> None:
    done, found = control(tmp_path, case)
    assert done.returncode == 0
    del found["descriptors"]
    assert found == {
        "shared": shared,
        "terminate": "member's own",
        "interrupt": "default_int_handler",
        "input": os.devnull,
        "output": "log",
        "threads": "1",
        "blocked": 0,
        "log": "said by a member\n",
    }
    assert done.stdout == "waits to be written"


def test_members_hold_nothing_open_that_they_do_not_hold_otherwise(tmp_path: Path) -> None:
    """An end of a socket that a member held would hide from its warden that the controller is gone."""
    _done, forked = control(tmp_path / "forked", "forked")
    _done, alone = control(tmp_path / "alone", "alone")
    assert forked["descriptors"] == alone["descriptors"]


UNUSUAL: dict[str, Callable[[], object]] = {
    "a signal is blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,)),
    "ends of children are ignored": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "no standard input": lambda: os.close(0),
    "something is open": lambda: os.dup2(1, 50),
}


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_members_are_the_same_whatever_the_controller_was_started_with(tmp_path: Path, unusual: str) -> None:
    _done, usual = control(tmp_path / "usual", "forked")
    done, found = control(tmp_path / "unusual", "forked", preexec_fn=UNUSUAL[unusual], close_fds=False)
    assert done.returncode == 0
    assert found == usual


def test_it_ends_with_a_controller_that_is_killed(tmp_path: Path) -> None:
    done, found = control(tmp_path, "killed")
    assert done.returncode == -signal.SIGKILL
    processes = found["processes"]
    assert isinstance(processes, list)
    assert len(set(processes)) > 2, "the warden, the member and its child"
    await_gone(processes)
