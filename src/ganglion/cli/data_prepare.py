"""A preparation as it goes on: who does the work, how fast it is, and what came of it."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ganglion.cli.data_dataset import SHORT, counted, describe_dataset, source_text
from ganglion.cli.output import duration_text, make_table
from ganglion.core.errors import ConfigurationError, DataError
from ganglion.core.ids import RandomIds
from ganglion.core.resources import Resources, format_size

if TYPE_CHECKING:
    from ganglion.data import PreparedDataset, Progress
    from ganglion.execution.supervisor import Job
    from ganglion.platform import Platform

INTERVAL = 5.0
"""Seconds between lines where nothing is redrawn."""

_SHARE = 0.25  # of a core that a worker asks for, so that a few of them run on a small machine


def parse_max_bad(text: str) -> int | float:
    """Read `100` as a count, `0.01` and `1%` as a share of the records.

    Raises:
        ConfigurationError: it is neither.
    """
    if text.isdecimal():
        return int(text)
    if (match := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text)) is not None:
        share = float(match[1]) / (100 if match[2] else 1)
        if share <= 1:
            return share
    raise ConfigurationError(f"--max-bad {text!r} is neither a count such as 100 nor a share such as 0.01 or 1%.")


class TaskRunner:
    """Calls entries in processes of the project's backend; any number of threads may call at once.

    Ctrl-C, or a signal to end, ends these processes before this one.

    Args:
        platform: where they run.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._jobs: list[Job] = []
        self._guard = threading.Lock()
        self._over = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def __call__(self, entry: str, arguments: dict[str, Any]) -> Any:
        """Call `module:function` and return its value.

        Raises:
            DataError: it raised one.
            JobFailedError: it failed in another way.
        """
        from ganglion.execution.entry import Entry
        from ganglion.execution.spec import Task

        with self._guard:
            if self._over:
                raise KeyboardInterrupt
            task = Task(
                id=RandomIds().new("prepare"),
                entry=Entry(path=entry),
                arguments=arguments,
                resources=Resources(cpu=_SHARE),
                import_path=(str(Path.cwd()),),
                preload=("numpy", "ganglion.data.preparation.driver"),
            )
            job = self._platform.supervisor.submit(task)
            self._jobs.append(job)
        outcome = job.wait()
        culprit = outcome.exits.get(outcome.culprit or "")
        if culprit is not None and (culprit.error_type or "").endswith("DataError"):
            raise DataError(culprit.message)
        outcome.raise_for_failure()
        return outcome.value

    def _interrupt(self, _number: int, _frame: object) -> None:
        self._over = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for job in self._jobs:
            job.cancel()
        raise KeyboardInterrupt


class Pace:
    """How fast a preparation is, without what an earlier attempt had done.

    Attributes:
        earlier: pieces that an earlier attempt had written.

    Args:
        clock: seconds, from anywhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.earlier = 0
        self._clock = clock
        self._start = clock()
        self._first: Progress | None = None

    def take(self, progress: Progress) -> tuple[float, float]:
        """Records and bytes in a second up to now; told for the first time before anything is done."""
        if self._first is None:
            self._first, self.earlier = progress, progress.pieces
        spent = max(self._clock() - self._start, 1e-3)
        records, size = ((getattr(progress, name) - getattr(self._first, name)) / spent for name in ("records", "size"))
        return records, size


class PrepareProgress:
    """Shows how far a preparation is; use as a context manager around it.

    Attributes:
        pace: how fast it is.

    Args:
        console: where to show it; a bar is redrawn if it is a terminal.
        quiet: nothing is shown.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.pace = Pace()
        self._console = console
        self._quiet = quiet
        self._told = time.monotonic()
        self._bars = Bars(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("pieces  {task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            expand=True,
        )

    def __enter__(self) -> Self:
        if self._drawn:
            self._task = self._bars.add_task("preparing", total=None, text="")
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Take note of how far it is."""
        records, size = self.pace.take(progress)
        bad = f"  {progress.set_aside:,} bad" if progress.set_aside else ""
        text = f"{progress.records:,}{bad}  {records:,.0f} records/s  {format_size(size)}/s"
        if self._drawn:
            self._bars.update(self._task, total=progress.of, completed=progress.pieces, text=text)
        elif not self._quiet and time.monotonic() - self._told >= INTERVAL:
            self._told = time.monotonic()
            self._console.print(f"{progress.pieces} of {progress.of} pieces: {text}", soft_wrap=True)

    @property
    def _drawn(self) -> bool:
        return self._console.is_terminal and not self._quiet


def describe_preparation(
    dataset: PreparedDataset, state: str, pace: Pace, *, before: int, seconds: float
) -> dict[str, Any]:
    """What came of a preparation, as plain data.

    Args:
        dataset: that was made or found.
        state: `prepared`, `grown`, `replayed` or `cached`.
        pace: of the preparation.
        before: records of the dataset that it was added to; 0 for a new one.
        seconds: that it took.
    """
    return {
        "state": state,
        **describe_dataset(dataset),
        "added": 0 if state == "cached" else dataset.count - before,
        "pieces_of_an_earlier_attempt": pace.earlier,
        "seconds": seconds,
        "bad": [
            {"source": bad.source, "stage": bad.stage, "reason": bad.reason, "count": bad.count}
            for bad in dataset.manifest.bad
        ],
    }


def print_preparation(described: dict[str, Any], out: Console) -> None:
    """Show what came of a preparation."""
    digest = described["dataset"].removeprefix("sha256:")[:SHORT]
    style = "cyan" if described["state"] == "cached" else "green"
    out.print(f"[{style}]{described['state']}[/] in {duration_text(described['seconds'])}")
    table = make_table("", "")
    table.show_header = False
    rate = described["added"] / max(described["seconds"], 1e-3)
    for name, text in (
        ("dataset", described["dataset"]),
        ("source", source_text(described["source"])),
        ("records", accounting_text(described)),
        ("added", f"{described['added']:,} ({rate:,.0f} records/s)" if described["added"] else ""),
        ("size", f"{format_size(described['size'])} in {counted(described['segments'], 'segment')}"),
        ("went on after", _pieces(described["pieces_of_an_earlier_attempt"])),
    ):
        if text:
            table.add_row(f"[dim]{name}[/]", escape(text))
    out.print(table)
    if described["set_aside"]:
        reasons = Counter[str]()
        for bad in described["bad"]:
            reasons[f"{bad['stage']}: {bad['reason']}"] += bad["count"]
        for reason, count in reasons.most_common(5):
            out.print(f"  [red]{count:,} set aside[/] {escape(reason)}", soft_wrap=True)
        out.print(f"See them with: ganglion data quarantine {digest}", soft_wrap=True)


def accounting_text(described: dict[str, Any]) -> str:
    """What became of all records, in one line."""
    names = {"read": "read", "written": "written", "set_aside": "set aside", "left_out": "left out"}
    return ", ".join(f"{described[key]:,} {name}" for key, name in names.items())


def _pieces(count: int) -> str:
    return f"{counted(count, 'piece')} that an earlier attempt had written" if count else ""


def use_workers(platform: Platform, workers: int) -> TaskRunner | None:
    """Who does the work: processes of the backend where more than one is wanted, else this one.

    A signal to end is taken like Ctrl-C in both cases.
    """
    if workers > 1:
        return TaskRunner(platform)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return None
