from __future__ import annotations

import io

import pytest
from rich.console import Console

from ganglion.cli.progress import Progress
from ganglion.core.run_events import StepNoted, StepUpdated


@pytest.mark.parametrize("terminal", [True, False])
def test_a_note_is_a_line_also_where_a_table_is_redrawn(terminal: bool) -> None:
    screen = io.StringIO()
    with Progress(Console(file=screen, width=100, force_terminal=terminal, highlight=False)) as shown:
        shown(StepUpdated(at=1.0, run="run-1", step="plain", attempt=1))
        shown(StepNoted(at=2.0, run="run-1", step="plain", member="worker-1", message="worker-1 [is] back"))
    lines = [line for line in screen.getvalue().splitlines() if "worker-1" in line]
    assert len(lines) == 1
    assert lines[0].rstrip().endswith("plain: worker-1 [is] back")
    assert ("updated" in screen.getvalue()) is not terminal
