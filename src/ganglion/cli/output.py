"""How verbs show things: tables for people, one JSON document for programs."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""

STYLES = {
    "succeeded": "green",
    "cached": "cyan",
    "running": "yellow",
    "failed": "bold red",
    "cancelled": "magenta",
    "interrupted": "magenta",
    "lost": "magenta",
    "pending": "dim",
}


def console(*, to_error: bool = False) -> Console:
    """Where people read: standard output, or standard error when a program reads the other."""
    found = Console(stderr=to_error, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = FILE_WIDTH
    return found


def write_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2)
    sys.stdout.write(text.decode() + "\n")


def make_table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns whose name begins with `>` are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", header_style="dim")
    return table


def state_text(state: str) -> str:
    """A state in its colour."""
    return f"[{STYLES.get(state, 'white')}]{state}[/]"


def duration_text(seconds: float | None) -> str:
    """Seconds for a person: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def time_text(at: float | None) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at is not None else ""


PROGRESS = frozenset(
    {
        *("progress", "step", "steps", "epoch", "epochs", "step_loss"),
        *("input_share", "compute_share", "communication_share", "memory_share", "overhead_share"),
    }
)
"""Metrics that say how far something is and where its time goes, not how good it is."""


def metrics_text(metrics: dict[str, float]) -> str:
    """Metrics in one line: `accuracy 0.8912  loss 0.301`; how far it is goes without saying."""
    return "  ".join(f"{name} {number_text(value)}" for name, value in sorted(metrics.items()) if name not in PROGRESS)


def number_text(value: float) -> str:
    """A number for a person: whole ones with thousands separated, others to four digits."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"
