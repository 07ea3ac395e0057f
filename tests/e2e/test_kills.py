"""SIGKILL of the orchestrator at random moments: nothing finished is repeated, and the result is complete."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from ganglion.core.run_events import RunFinished, StepFinished
from ganglion.workflow.journal import read_journal

from .conftest import Command, descendants

CHAIN = Path(__file__).with_name("chain.py")


def kill_until_done(ganglion: Command, folder: Path, seed: int) -> int:
    """Start the run again and again, killing it after a random time, until it ends by itself; counts the kills."""
    runs = ganglion.home / "runs"
    moments = random.Random(seed)
    arguments = ("run", str(CHAIN), "--set", f"folder={folder}")
    for kills in range(50):
        orchestrator = ganglion.start(*arguments, stdout=subprocess.DEVNULL)
        try:
            assert orchestrator.wait(moments.uniform(0.5, 4.0)) == 0
        except subprocess.TimeoutExpired:
            children = descendants(orchestrator.pid)
            orchestrator.send_signal(signal.SIGKILL)
            orchestrator.wait()
            assert not psutil.wait_procs(children, timeout=20)[1], "nothing of the killed run is left"
            if any(isinstance(event, RunFinished) for run in runs.glob("*") for event in read_journal(run)):
                return kills + 1
        else:
            return kills
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[] if seed < 2 else pytest.mark.soak) for seed in range(40)])
def test_whenever_the_orchestrator_is_killed_no_finished_step_is_repeated(
    ganglion: Command, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    kill_until_done(ganglion, folder, seed)
    runs = list((ganglion.home / "runs").iterdir())
    assert len(runs) == 1, "every start went on with the same run"
    finished = [event for event in read_journal(runs[0]) if isinstance(event, StepFinished)]
    assert sorted(event.step for event in finished) == ["join", "link", *(f"link-{number}" for number in range(2, 7))]
    assert {event.state for event in finished} == {"succeeded"}
    assert ganglion.json("runs", "show", "latest")["state"] == "succeeded"
