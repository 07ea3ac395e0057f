"""How far a training is, for people: a bar with throughput and time left on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ganglion.core.events import Event, MemberReported
from ganglion.training.notes import note_text

_NO_MEASURES = frozenset({"progress", "step", "steps", "epoch", "epochs", "step_loss", "images_per_second"})


class ProgressBar:
    """A listener for the events of a training; use as a context manager around it.

    Args:
        console: where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._guard = threading.Lock()
        self._bar = Progress(
            TextColumn("step {task.completed:.0f} of {task.total}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[bound]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, speed="", loss="", bound="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Take one event of the job."""
        with self._guard:
            match event:
                case MemberReported(values=values):
                    self._move(values)
                    if "epoch" in values:
                        self._console.print(epoch_text(values), soft_wrap=True, highlight=False)
            if line := note_text(event):
                self._console.print(escape(line), soft_wrap=True, highlight=False)

    def _move(self, values: Mapping[str, Any]) -> None:
        if "steps" not in values:
            return
        fields: dict[str, Any] = {}
        if "images_per_second" in values:
            fields["speed"] = f"{values['images_per_second']:,.0f} records/s"
        if "step_loss" in values:
            fields["loss"] = f"{values['step_loss']:.4g}"
        if "bound" in values:
            fields["bound"] = values["bound"]
        self._bar.update(self._task, completed=values["step"], total=values["steps"], **fields)


def epoch_text(line: Mapping[str, Any]) -> str:
    """One epoch in a line: `epoch 2 of 3: accuracy 0.8947  loss 0.283  1,350 records/s`."""
    of = f" of {line['epochs']}" if "epochs" in line else ""
    measures = "  ".join(f"{name} {value:.4g}" for name, value in sorted(line.items()) if name not in _NO_MEASURES)
    return f"epoch {line['epoch']}{of}: {measures}  {line['images_per_second']:,.0f} records/s"
