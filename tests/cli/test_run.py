from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from command_line import RECIPE, CommandLine, ProjectWithRuns


def test_json_is_the_whole_run_and_a_second_run_repeats_nothing(ganglion: CommandLine) -> None:
    first = ganglion.json("run", f"{RECIPE}:good", "--set", "number=10")
    assert (first["state"], first["value"], first["parameters"]) == ("succeeded", 42, {"number": 10})
    assert [step["name"] for step in first["steps"]] == ["double", "again", "add"]
    for step in first["steps"]:
        assert step["state"] == "succeeded"
        assert step["cache"] == "miss: no earlier result"
        assert [attempt["attempt"] for attempt in step["attempts"]] == [1]
        assert first["start"] <= step["start"] <= step["end"] <= first["end"]
    assert first["steps"][0]["metrics"] == {"accuracy": 0.5}

    second = ganglion.json("run", f"{RECIPE}:good", "--set", "number=10")
    assert (second["state"], second["value"]) == ("succeeded", 42)
    for step in second["steps"]:
        assert (step["state"], step["attempts"]) == ("cached", [])
        assert step["cache"].startswith("hit:")
        assert first["id"] in step["cache"]


def test_without_json_every_event_is_a_line_and_the_end_a_table(history: ProjectWithRuns) -> None:
    done = history.good
    assert done.returncode == 0
    assert "double: started" in done.stdout
    assert "add: succeeded" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("succeeded in")


def test_a_failing_step_fails_the_command_and_shows_the_traceback(history: ProjectWithRuns) -> None:
    done = history.bad
    assert done.returncode == 1
    assert 'raise ValueError(f"[/{number}] is bad")' in done.stderr
    assert "MarkupError" not in done.stderr
    assert "ValueError: [/6] is bad" in done.stdout  # as it is, not taken for markup


def test_inline_runs_steps_in_the_process_of_the_command(ganglion: CommandLine) -> None:
    with ganglion.start("run", f"{RECIPE}:where", "--inline", "--json") as command:
        document = json.loads(command.communicate(timeout=60)[0])
    assert document["value"] == command.pid


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("lights.py:good", ("--set", "nmber=3"), ("nmber", "Did you mean 'number'?")),
        ("lights.py:good", ("--set", "number=many"), ("number", "int")),
        ("lights.py:good", ("--set", "execution.bakend=local"), ("bakend", "Did you mean 'backend'?")),
        ("lights.py:waiting", (), ("pipe", "no default")),
        ("lights.py:god", (), ("god", "Did you mean 'good'?")),
        ("lights.py", (), ("several pipelines", "good", "waiting")),
        ("nothing.py", (), ("There is no file", "nothing.py")),
        ("command_line.py", (), ("no pipeline", "@pipeline")),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    ganglion: CommandLine, target: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = ganglion.error("run", RECIPE.parent / target, *options)
    for word in words:
        assert word in message
    assert not ganglion.home.exists()


def test_input_that_cannot_work_is_exit_code_2_and_a_message(ganglion: CommandLine) -> None:
    done = ganglion("run", f"{RECIPE}:good", "--set", "nmber=3", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ConfigurationError: Unknown key 'nmber'")
    assert "Traceback" not in done.stderr


def test_ctrl_c_cancels_the_run(ganglion: CommandLine, pipe: Path) -> None:
    with ganglion.start("run", f"{RECIPE}:waiting", "--set", f"pipe={pipe}") as command:
        assert pipe.read_text() == "started"
        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=60) == 130
    shown = ganglion.json("runs", "show", "latest")
    assert shown["state"] == "cancelled"
    assert [step["state"] for step in shown["steps"]] == ["succeeded", "cancelled"]


def test_a_killed_run_is_shown_as_interrupted_and_the_same_command_goes_on_with_it(
    ganglion: CommandLine, pipe: Path
) -> None:
    line = ("run", f"{RECIPE}:waiting", "--set", f"pipe={pipe}")
    with ganglion.start(*line) as command:
        assert pipe.read_text() == "started"
        assert ganglion.json("runs", "list", "--state", "interrupted") == []
        command.kill()
    (listed,) = ganglion.json("runs", "list", "--state", "interrupted")
    assert listed["steps"] == {"succeeded": 1, "interrupted": 1}
    assert ganglion.json("runs", "list", "--state", "running") == []
    shown = ganglion("runs", "show", "latest")
    assert "interrupted" in shown.stdout
    assert "goes on with it" in shown.stdout

    pipe.unlink()
    resumed = ganglion.json(*line)
    assert (resumed["id"], resumed["state"], resumed["value"]) == (listed["id"], "succeeded", 10)
    double, wait = resumed["steps"]
    assert [attempt["state"] for attempt in double["attempts"]] == ["succeeded"]
    assert [attempt["state"] for attempt in wait["attempts"]] == ["lost", "succeeded"]
