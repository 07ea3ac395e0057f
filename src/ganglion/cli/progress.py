"""The live view of a run: a table that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from ganglion.cli.output import duration_text, make_table, metrics_text, state_text
from ganglion.core.run_events import (
    AnyRunEvent,
    MetricReported,
    ModelPublished,
    RunFinished,
    RunStarted,
    StepFinished,
    StepNoted,
    StepStarted,
    StepUpdated,
)


class _Row:
    """A step as it is shown."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "pending"
        self.start: float | None = None
        self.end: float | None = None
        self.note = ""
        self.metrics: dict[str, float] = {}


class Progress:
    """A listener that shows what happens; use as a context manager around the run.

    Args:
        console: where to show it; redrawn if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._title = ""
        self._guard = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.table, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: AnyRunEvent) -> None:
        """Take one event of the run."""
        with self._guard:
            line = self._take(event)
        if line and (self._live is None or isinstance(event, StepNoted)):
            at = time.strftime("%H:%M:%S", time.localtime(event.at))
            self._console.print(f"{at}  {escape(line)}", soft_wrap=True)

    def _take(self, event: AnyRunEvent) -> str:
        """Change the rows; returns the line to print where nothing is redrawn."""
        match event:
            case RunStarted(run=run, pipeline=pipeline, graph=graph, resumed=resumed):
                self._title = f"{pipeline}  {run}" + ("  (resumed)" if resumed else "")
                for node in graph:
                    self._rows.setdefault(node["step"], _Row(node["step"]))
                return self._title
            case StepStarted(step=step, attempt=attempt, cache=cache, at=at):
                row = self._row(step)
                if row.state != "running":
                    row.start = at
                row.state, row.end, row.note = "running", None, cache
                again = f" (attempt {attempt})" if attempt > 1 else ""
                return f"{step}: started{again}, {cache}" if cache else f"{step}: started{again}"
            case MetricReported(step=step, name=name, value=value, position=position):
                row = self._row(step)
                row.metrics[name] = value
                if name == "accuracy" and position is not None:
                    return f"{step}: epoch {position:g}: {metrics_text(row.metrics)}"
            case StepNoted(step=step, message=message):
                return f"{step}: {message}"
            case StepUpdated(step=step):
                return f"{step}: updated"
            case StepFinished(step=step, state=state, cache=cache, message=message, at=at):
                row = self._row(step)
                row.start = row.start or at
                row.state, row.end = state, at
                row.note = message or cache
                row.metrics |= event.metrics
                took = duration_text(at - row.start)
                note = message or (cache if state == "cached" else "")
                shown = metrics_text(row.metrics)
                if state == "cancelled":
                    return f"{step}: cancelled"
                return f"{step}: {state} in {took}" + "".join(f", {text}" for text in (note, shown) if text)
            case ModelPublished(model=model, version=version, aliases=aliases):
                return f"published {model} version {version}" + (f" as {', '.join(aliases)}" if aliases else "")
            case RunFinished(state=state, message=message):
                return f"run {state}" + (f": {message}" if message else "")
        return ""

    def _row(self, step: str) -> _Row:
        return self._rows.setdefault(step, _Row(step))

    def table(self) -> Table:
        """The steps as they stand."""
        with self._guard:
            now = time.time()
            table = make_table("step", "state", ">time", "progress", "metrics", "", title=self._title)
            for row in self._rows.values():
                spent = None if row.start is None else (row.end or now) - row.start
                table.add_row(
                    row.name,
                    state_text(row.state),
                    duration_text(spent),
                    _bar(row),
                    metrics_text(row.metrics),
                    f"[dim]{escape(row.note)}[/]",
                )
        return table


def _bar(row: _Row) -> RenderableType:
    if row.state == "running" and "progress" in row.metrics:
        return ProgressBar(total=1.0, completed=row.metrics["progress"], width=20)
    return ""
