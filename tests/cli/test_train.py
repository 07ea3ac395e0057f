from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine

from ganglion.data.datasets import fashion_mnist
from ganglion.workflow.single_job import SingleJob

RECIPES = Path(__file__).parents[2] / "recipes"

RECIPE = Path(__file__).parent / "separate.py"


def test_a_training_that_loses_a_worker_publishes_its_model_with_which_another_may_begin(
    ganglion: CommandLine,
) -> None:
    common = ("--cpu", "0.25", "--set", "max_steps=15")
    kill = ("--faults", "kill: rank=1, point=in_reduce, step=3")
    done = ganglion("train", f"{RECIPE}:training", "--publish", "points", *common, *kill)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"worker-1 is lost: killed by SIGKILL", "worker-1 is replaced (attempt 2)"} <= set(lines)
    assert re.search(r"^epoch 2 of 2: accuracy \S+  loss \S+  train_loss \S+  \S+ records/s$", done.stdout, re.M)
    assert re.search(r"^([a-z]+-bound \d+%.*|balanced)\n  A step takes .* in the mean of \d+: ", done.stdout, re.M)
    assert lines[-3:] == ["published points version 1", "1 faults happened", "succeeded"]

    (run,) = ganglion.json("runs", "list")
    assert (run["state"], run["steps"]) == ("succeeded", {"succeeded": 1})
    assert run["pipeline"].endswith(f"{RECIPE.name}:training")
    shown = ganglion.json("runs", "show", "latest")
    (step,) = shown["steps"]
    assert step["name"] == "train"
    assert 0 < step["metrics"]["accuracy"] <= 1
    assert "killed" not in shown["state"]
    journal = (ganglion.home / "runs" / run["id"] / "journal.jsonl").read_text().splitlines()
    notes = [event["message"] for event in map(json.loads, journal) if event["event"] == "step_noted"]
    assert notes[:2] == ["worker-1 is lost: killed by SIGKILL", "worker-1 is replaced (attempt 2)"]
    assert ganglion("runs", "logs", "latest").returncode == 0

    wider = ("--init-from", "points", "--set", "model.width=5", "--workers", "1")
    refused = ganglion.json("train", f"{RECIPE}:training", *common, *wider, status=2)
    assert refused["state"] == "failed"
    assert "0.weight is float32 [5, 3] here and float32 [4, 3] there" in refused["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "epoch=3"), "Unknown key 'epoch'.*Did you mean 'epochs'"),
        (("--set", "model.widht=3"), "no argument 'widht'.*Did you mean 'width'"),
        (("--epochs", "2", "--set", "max_steps=3"), "epochs is 2 and max_steps is 3"),
        (("--workers", "3", "--logical-workers", "2"), "3 workers for 2 logical workers"),
        (("--faults", "kil: rank=1"), "'kil'.*'kill'"),
        (("--faults", "kill: point=in_reduc"), "'training.in_reduc'.*Did you mean 'training.in_reduce'"),
        (("--init-from", "nobody"), "no model 'nobody'"),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest(ganglion: CommandLine, options: tuple[str, ...], words: str) -> None:
    assert re.search(words, ganglion.error("train", f"{RECIPE}:training", *options), re.S)


def test_a_file_without_a_training_or_with_several(ganglion: CommandLine, tmp_path: Path) -> None:
    assert "several trainings; name one" in ganglion.error("train", RECIPE)
    assert "no training 'trainin'" in ganglion.error("train", f"{RECIPE}:trainin")
    (tmp_path / "nothing_here.py").write_text("")
    assert "has no training; write training =" in ganglion.error("train", tmp_path / "nothing_here.py")


def test_a_training_is_told_what_it_is_bound_by_and_fix_input_says_what_it_changes(ganglion: CommandLine) -> None:
    document = ganglion.json("train", f"{RECIPE}:training", "--workers", "1", "--cpu", "0.25", "--fix-input")
    assert document["fixed_input"][0].startswith("parallel=")
    verdict = document["result"]["diagnosis"]
    assert sum(verdict["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert verdict["evidence"][0].startswith("A step takes ")


def test_an_interrupted_training_says_how_to_go_on(ganglion: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "its checkpoints"
    settings = ("--set", f"checkpoints.folder={folder}", "--set", "checkpoints.shortest=0", "--set", "max_steps=400")
    command = ("train", f"{RECIPE}:training", "--workers", "1", *settings)
    with ganglion.start(*command, "--faults", "stop: step=300, times=0, attempt=0") as process:
        while not any(path.name.isdecimal() for path in folder.glob("*")):
            assert process.poll() is None
            threading.Event().wait(0.05)
        process.kill()
    (listed,) = ganglion.json("runs", "list", "--state", "interrupted")
    assert f"ganglion runs show {listed['id']}" in ganglion("runs", "list").stdout
    hint = ganglion("runs", "show", "latest").stdout.splitlines()[-1]
    (newest,) = re.findall(r"goes on from step (\d+), its newest checkpoint in ", hint)
    assert (folder / newest).is_dir()
    again = shlex.split(re.findall("`ganglion (.*?)`", hint)[0])
    assert again == list(map(str, command))


def test_an_interrupted_training_without_checkpoints_says_what_to_give_it(ganglion: CommandLine) -> None:
    runs = ganglion.home / "runs"
    started = {"pipeline": "points.py", "step": "train", "kind": "train", "parameters": {"workers": 2, "set": []}}
    SingleJob(runs, "run-1", **started)._journal.close()  # as if the process had ended here
    hint = ganglion("runs", "show", "latest").stdout.splitlines()[-1]
    assert "`ganglion train points.py --workers 2` begins anew, as it keeps no checkpoints" in hint


def test_a_checkpoint_that_could_not_be_saved_is_a_warning(ganglion: CommandLine, tmp_path: Path) -> None:
    settings = ("--set", f"checkpoints.folder={tmp_path / 'kept'}", "--set", "checkpoints.shortest=0")
    often = (*settings, "--set", "checkpoints.longest=0", "--set", "max_steps=30", "--workers", "1")
    full = ("--faults", "disk_full: attempt=0, times=0")
    done = ganglion("train", f"{RECIPE}:training", *often, *full)
    assert done.returncode == 0, done.stderr
    assert "warning: the last checkpoint could not be saved" in done.stdout


def test_ctrl_c_ends_the_training_with_status_130(ganglion: CommandLine) -> None:
    with ganglion.start("train", f"{RECIPE}:training", "--workers", "1", "--epochs", "100000") as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("epoch 1 of")
        command.send_signal(signal.SIGINT)
        rest, _ = command.communicate(timeout=30)
    assert command.returncode == 130
    assert "cancelled" in rest


def test_the_loop_that_one_would_write_by_hand_learns_the_same_problem() -> None:
    folder = Path(fashion_mnist("train").images).parent
    line = (sys.executable, str(RECIPES / "plain_torch.py"), "--folder", str(folder), "--limit", "4000")
    done = subprocess.run([*line, "--epochs", "2"], capture_output=True, text=True, check=True, timeout=100)
    accuracies = [float(found) for found in re.findall(r"accuracy (\S+)", done.stdout)]
    assert len(accuracies) == 2
    assert np.max(accuracies) > 0.6
