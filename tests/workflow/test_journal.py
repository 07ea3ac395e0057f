from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import IntegrityError, UserError
from ganglion.core.run_events import RunFinished, RunStarted, StepFinished, StepStarted
from ganglion.workflow.journal import JOURNAL, Journal, is_alive, read_first, read_journal

EVENTS = [
    RunStarted(at=1.0, run="r", pipeline="p:q", parameters={"n": 1}),
    StepStarted(at=2.0, run="r", step="a", attempt=1),
    StepFinished(at=3.0, run="r", step="a", attempt=1, state="succeeded", result={"$": "tuple", "items": [1, None]}),
    RunFinished(at=4.0, run="r", state="succeeded"),
]


def test_events_are_read_back_and_more_are_appended(tmp_path: Path):
    with Journal(tmp_path) as journal:
        assert journal.events == []
        journal.append(EVENTS[0])
        journal.append(EVENTS[1])
        assert read_journal(tmp_path) == EVENTS[:2]  # while it is open
    with Journal(tmp_path) as journal:
        assert journal.events == EVENTS[:2]
        journal.append(EVENTS[2])
    assert read_journal(tmp_path) == EVENTS[:3]
    assert read_first(tmp_path) == EVENTS[0]
    assert read_first(tmp_path / "absent") is None


@given(data=st.data())
def test_wherever_the_last_write_was_cut_only_it_is_lost(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run")
    with Journal(folder) as journal:
        for event in EVENTS:
            journal.append(event)
    whole = (folder / JOURNAL).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / JOURNAL).write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert read_journal(folder) == EVENTS[:kept]
    with Journal(folder) as journal:
        assert journal.events == EVENTS[:kept]
        journal.append(EVENTS[1])
    assert read_journal(folder) == [*EVENTS[:kept], EVENTS[1]]


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path):
    with Journal(tmp_path) as journal:
        journal.append(EVENTS[0])
        journal.append(EVENTS[1])
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(lines[0][:10] + b"\n" + lines[1])
    with pytest.raises(IntegrityError, match="line 1 is damaged"):
        read_journal(tmp_path)


def test_one_orchestrator_at_a_time_and_a_killed_one_lets_go(tmp_path: Path):
    assert not is_alive(tmp_path)
    script = (
        "import pathlib, sys\nfrom ganglion.workflow.journal import Journal\n"
        f"journal = Journal(pathlib.Path({str(tmp_path)!r}))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert is_alive(tmp_path)
        with pytest.raises(UserError, match="being worked on by another process"):
            Journal(tmp_path)
        other.kill()
        other.wait()
    assert not is_alive(tmp_path)
    Journal(tmp_path).close()
