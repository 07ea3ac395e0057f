"""`ganglion run-script`: scripts as their users write them, run on many processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import CommandLine
from tensorflow_environment import NotInstallable, tensorflow_python

SCRIPTS = Path(__file__).parent / "scripts"
WITH_PYTHON = ("--python", sys.executable)
ON_RAY = ("--backend", "ray")
PLACES: dict[str, tuple[str, ...]] = {
    "forked": (),
    "interpreter": WITH_PYTHON,
    "ray": ON_RAY,
    "ray-interpreter": (*ON_RAY, *WITH_PYTHON),
}
"""Where the members run and by which interpreter: the options that say so."""


def places(*names: str, soak: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """The same test in several places; some of them only when there is time."""
    rare = [pytest.param(name, marks=pytest.mark.soak) for name in soak]
    return pytest.mark.parametrize("place", [*names, *rare], indirect=True)


BACKENDS = places("forked", "ray")
EVERYWHERE = places("forked", "interpreter", "ray", soak=("ray-interpreter",))
LOCALLY = places("forked", "interpreter", soak=("ray", "ray-interpreter"))
LEARNED = "loss 0.000000, weights 1.000 -2.000 3.000 0.500"


@pytest.fixture(scope="session")
def tensorflow() -> Path:
    try:
        return tensorflow_python()
    except NotInstallable as error:
        pytest.skip(f"TensorFlow cannot be installed: {error}")


@pytest.fixture
def place(request: pytest.FixtureRequest, ganglion: CommandLine) -> tuple[str, ...]:
    """The options that say where the members run."""
    options = PLACES[request.param]
    if ON_RAY[1] in options:
        ganglion.environment["RAY_ADDRESS"] = request.getfixturevalue("ray_address")
    return options


def lines_of(output: str, member: str) -> list[str]:
    """What a member has written."""
    shown = (line.partition(" | ") for line in output.splitlines())
    return [text for label, separator, text in shown if separator and label.rstrip() == member]


# the frameworks


@BACKENDS
def test_torch_finds_its_ranks(ganglion: CommandLine, place: tuple[str, ...]) -> None:
    done = ganglion("run-script", *place, SCRIPTS / "torch_ddp.py", "--", "--epochs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        (line,) = [line for line in lines_of(done.stdout, f"worker-{rank}") if line.startswith("rank")]
        assert re.fullmatch(rf"rank {rank} of 2: epochs 2, loss 0\.0\d+, same weights: True", line)
    assert done.stdout.rstrip().endswith("succeeded")


@BACKENDS
@pytest.mark.timeout(1800)  # the first time it installs TensorFlow
def test_tensorflow_mirrors_its_variables_on_two_workers(
    ganglion: CommandLine, tensorflow: Path, place: tuple[str, ...]
) -> None:
    done = ganglion("run-script", *place, "--python", tensorflow, SCRIPTS / "tensorflow_multi_worker.py")
    assert done.returncode == 0, done.stdout + done.stderr
    for index in range(2):
        assert f"worker {index}: replicas 2, {LEARNED}" in lines_of(done.stdout, f"worker-{index}")


@pytest.mark.timeout(1800)
@BACKENDS
def test_tensorflow_keeps_its_variables_on_a_parameter_server(
    ganglion: CommandLine, tensorflow: Path, place: tuple[str, ...]
) -> None:
    options = ("--chief", "--workers", "1", "--ps", "1", *place, "--python", tensorflow)
    done = ganglion("run-script", *options, SCRIPTS / "tensorflow_parameter_server.py", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in lines_of(done.stderr, "chief-0") if line.startswith("chief")]
    assert line.startswith("chief: weights on /job:ps/replica:0/task:0/device:CPU:0")
    assert line.endswith(LEARNED)
    chief, worker, ps = json.loads(done.stdout)["members"]
    assert (chief["member"], chief["rank"], chief["state"], chief["exit"]) == ("chief-0", 0, "succeeded", 0)
    for waiting in (worker, ps):  # they serve for ever and were ended once the chief was done
        assert (waiting["state"], waiting["message"], waiting["signal"]) == ("succeeded", "drained", signal.SIGTERM)


# as `python FILE` runs it


@EVERYWHERE
def test_a_script_sees_what_it_would_see_under_python(
    ganglion: CommandLine, place: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = ("--epochs", "3", "--", "-x", "two words")
    file = SCRIPTS / "beside" / "facts.py"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    plain = subprocess.run(
        [sys.executable, file, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    done = ganglion("run-script", "--workers", "1", *place, file, "--", *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = lines_of(done.stdout, "worker-0")
    facts = json.loads(line)
    assert facts == json.loads(plain.stdout)
    assert (facts["arguments"], facts["input"], facts["spawned"]) == (list(arguments), "", ["__mp_main__", "facts.py"])


@LOCALLY
def test_what_a_script_leaves_behind_is_awaited(ganglion: CommandLine, place: tuple[str, ...]) -> None:
    file = SCRIPTS / "ends.py"
    plain = subprocess.run([sys.executable, file, "behind"], capture_output=True, text=True, check=True)
    done = ganglion("run-script", *place, file, "behind")
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        assert lines_of(done.stdout, f"worker-{rank}") == plain.stdout.splitlines()


@pytest.mark.parametrize(
    ("way", "end"),
    [
        ("raise", {"state": "failed", "exit": 1, "message": "OddError: a rank's own words"}),
        ("memory", {"state": "out of memory", "exit": 1, "error_type": "MemoryError"}),
        ("status", {"state": "failed", "exit": 7, "error_type": "SystemExit"}),
        ("signal", {"state": "killed", "exit": None, "signal": signal.SIGKILL}),
    ],
)
@LOCALLY
def test_the_first_end_that_is_no_success_is_passed_on(
    ganglion: CommandLine, place: tuple[str, ...], way: str, end: dict[str, Any]
) -> None:
    shown = ganglion.json("run-script", *place, SCRIPTS / "ends.py", way, status=1)
    assert (shown["state"], shown["culprit"]) == ("failed", "worker-1")
    waiting, failed = shown["members"]
    assert waiting["state"] == "cancelled"
    assert {name: failed[name] for name in end} == end
    assert failed["seconds"] > 0
    assert failed["peak_memory"] > 2**20


@EVERYWHERE
def test_a_traceback_is_shown_as_python_shows_it(ganglion: CommandLine, place: tuple[str, ...]) -> None:
    plain = subprocess.run([sys.executable, SCRIPTS / "ends.py", "raise"], capture_output=True, text=True)
    done = ganglion("run-script", *place, SCRIPTS / "ends.py", "raise")
    assert done.returncode == 1
    assert lines_of(done.stdout, "worker-1") == plain.stderr.splitlines()
    assert "failed: worker-1 exception" in done.stdout
    again = done.stderr.partition("worker-1:\n")[2]
    for line in plain.stderr.splitlines():
        assert line in again


@LOCALLY
def test_a_message_instead_of_a_status_is_shown_once(ganglion: CommandLine, place: tuple[str, ...]) -> None:
    message = ganglion("run-script", *place, SCRIPTS / "ends.py", "words")
    assert lines_of(message.stdout, "worker-1") == ["no data"]
    assert message.stderr == ""


# roles, restarts, variables


@EVERYWHERE
def test_output_is_live_and_parameter_servers_are_ended_last(
    ganglion: CommandLine, pipe: Path, place: tuple[str, ...]
) -> None:
    ganglion.environment.pop("PYTHONUNBUFFERED", None)
    with ganglion.start("run-script", "--workers", "1", "--ps", "1", *place, SCRIPTS / "waits.py", pipe) as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("worker-0 | waiting")
        pipe.write_text("the word")
        rest = command.stdout.read()
        assert command.wait() == 0
    assert lines_of(rest, "worker-0") == ["got the word"]
    assert re.search(r"ps-0 +succeeded +SIGTERM .* drained", rest)


@places("forked", soak=("ray",))
def test_a_gang_that_failed_is_started_again(ganglion: CommandLine, place: tuple[str, ...], tmp_path: Path) -> None:
    line = ("run-script", *place, "--restarts", "1", SCRIPTS / "second_try.py", tmp_path / "mark")
    done = ganglion(*line, "--json")
    assert done.returncode == 0, done.stderr
    assert [member["attempts"] for member in json.loads(done.stdout)["members"]] == [2, 2]
    for rank in range(2):
        assert lines_of(done.stderr, f"worker-{rank} attempt 2") == [f"done by rank {rank} of 2"]
    (tmp_path / "mark").unlink()
    assert ganglion("run-script", *place, SCRIPTS / "second_try.py", tmp_path / "mark").returncode == 1


@BACKENDS
def test_variables_and_limits_reach_the_members(ganglion: CommandLine, place: tuple[str, ...], tmp_path: Path) -> None:
    script = tmp_path / "shows.py"
    script.write_text("import os, sys\nsys.stdout.write(os.environ['GREETING'] + os.environ['OMP_NUM_THREADS'])\n")
    if not place:
        (tmp_path / "ganglion.toml").write_text("[execution.local]\ncpu = 4\n")
    done = ganglion("run-script", *place, "--env", "GREETING=a=b", "--cpu", "2", script)
    assert lines_of(done.stdout, "worker-1") == ["a=b2"]
    one = ("run-script", *place, "--workers", "1")
    limited = ganglion.json(*one, "--memory", "64MiB", SCRIPTS / "takes.py", status=1)
    assert limited["members"][0]["state"] == "out of memory"
    late = ganglion.json(*one, "--timeout", "0.5s", SCRIPTS / "ends.py", "raise", status=1)
    assert (late["state"], late["members"][0]["state"]) == ("failed", "timed out")


# ends from outside


@contextmanager
def waiting(ganglion: CommandLine, *line: str | Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """The command and the processes of a gang of two whose script waits."""
    with ganglion.start("run-script", *line) as command:
        assert command.stdout is not None
        yield command, [psutil.Process(int(command.stdout.readline().split()[-1])) for _ in range(2)]


@EVERYWHERE
def test_ctrl_c_cancels_the_gang(ganglion: CommandLine, pipe: Path, place: tuple[str, ...]) -> None:
    with waiting(ganglion, *place, SCRIPTS / "waits.py", pipe) as (command, members):
        command.send_signal(signal.SIGINT)
        shown = command.communicate(timeout=60)[0]
        assert command.returncode == 130
        assert shown.rstrip().endswith("cancelled")
        assert len(re.findall(r"worker-\d +cancelled +SIGTERM", shown)) == 2
        assert not any(member.is_running() for member in members)


@EVERYWHERE
def test_nobody_survives_a_command_that_was_killed(ganglion: CommandLine, pipe: Path, place: tuple[str, ...]) -> None:
    with waiting(ganglion, *place, SCRIPTS / "waits.py", pipe) as (command, members):
        command.kill()
        assert psutil.wait_procs(members, timeout=30)[1] == []


# input that cannot work


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("missing.py",), ("There is no file", "missing.py")),
        (("waits.py", "--workers", "0"), ("--workers", "--chief")),
        (("waits.py", "--memory", "lots"), ("'lots' is not a size", "512MiB")),
        (("waits.py", "--timeout", "soon"), ("'soon' is not a duration", "1h")),
        (("waits.py", "--env", "NAME"), ("'NAME'", "KEY=VALUE")),
        (("waits.py", "--env", "OMP_NUM_THREADS=2"), ("OMP_NUM_THREADS", "--cpu")),
        (("waits.py", "--python", "no/such/python"), ("no/such/python", "no such program")),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    ganglion: CommandLine, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = ganglion.error("run-script", SCRIPTS / options[0], *options[1:])
    for word in words:
        assert word in message
    assert not ganglion.home.exists()


@BACKENDS
def test_more_workers_than_there_is_room_for_are_refused(ganglion: CommandLine, place: tuple[str, ...]) -> None:
    if not place:
        (ganglion.home.parent / "ganglion.toml").write_text("[execution.local]\ncpu = 4\n")
    done = ganglion("run-script", *place, "--workers", "5", "--cpu", "1", SCRIPTS / "waits.py", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "5 members together need 5 CPUs of 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (ganglion.home / "jobs").exists()
