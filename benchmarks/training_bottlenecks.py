"""Bottlenecks on purpose, of any strength: sources, models and callbacks that training processes import by path."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ganglion.data.records.columns import Columns
from ganglion.execution.member import current_member
from ganglion.training.callbacks import Callback, Training
from ganglion.training.measures import Survey
from ganglion.training.timing import Stage, StepTimer

PAGE = 4096


def burn(seconds: float) -> None:
    """Use the processor."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Points:
    """Random points with labels, each batch of which takes its time.

    Args:
        steps: in an epoch.
        batch: records in a step.
        width: numbers in a point.
        sleep: seconds that a batch is waited for.
        work: seconds of processor time that it takes.
        index: of the only worker that this happens to; by default to all.
    """

    def __init__(
        self,
        *,
        steps: int,
        batch: int = 32,
        width: int = 64,
        sleep: float = 0.0,
        work: float = 0.0,
        index: int | None = None,
    ) -> None:
        self.count, self.global_batch, self.steps_per_epoch = steps * batch, batch, steps
        self._width = width
        concerned = index is None or current_member().index == index
        self._sleep, self._work = (sleep, work) if concerned else (0.0, 0.0)

    def batches(self, epoch: int, *, first: int, last: int, of: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """As `BatchSource` says."""
        for step in range(start, self.steps_per_epoch):
            chance = np.random.default_rng((epoch, step))
            points = chance.normal(size=(self.global_batch, self._width)).astype(np.float32)
            if self._sleep:
                time.sleep(self._sleep)
            if self._work:
                burn(self._work)
            part = slice(first * self.global_batch // of, last * self.global_batch // of)
            yield {"point": points[part], "label": (points[part].sum(1) > 0).astype(np.int64)}


def worked_on(columns: Columns, seconds: float) -> Columns:
    """A transform in Python, which takes processor time for each record."""
    burn(seconds * len(columns["point"]))
    return columns


class Network(nn.Module):
    """Dense layers beside which other things happen.

    Args:
        width: numbers in a point.
        hidden: width of the layers.
        layers: how many.
        ballast: numbers that are trained and hardly computed with.
        work: seconds of processor time in each forward pass, in Python.
        sleep: seconds that each forward pass waits besides.
        pages: pages of a table on disk that each forward pass reads.
        table: the file.
        evict: drop what was read before each pass, as a kernel does that is short of memory.
        limit: bytes of memory that the process may use from then on, by a control group (version 1, as root).
        index: of the only worker that work, pages and limit concern; by default all.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        hidden: int = 64,
        layers: int = 2,
        ballast: int = 0,
        work: float = 0.0,
        sleep: float = 0.0,
        pages: int = 0,
        table: str = "",
        evict: bool = False,
        limit: int = 0,
        index: int | None = None,
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList([nn.Linear(size, hidden) for size in sizes])
        self.output = nn.Linear(hidden, 2)
        self.ballast = nn.EmbeddingBag(ballast // 16, 16) if ballast else None
        concerned = index is None or current_member().index == index
        self._sleep = sleep
        self._work, self._pages = (work, pages) if concerned else (0.0, 0)
        self._table = Table(table, evict=evict, limit=limit) if table and concerned else None

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2)."""
        if self._work and self.training:
            burn(self._work)
        if self._sleep and self.training:
            time.sleep(self._sleep)
        if self._table is not None and self.training:
            self._table.read(self._pages)
        hidden = points
        for layer in self.layers:
            hidden = torch.relu(layer(hidden))
        logits: torch.Tensor = self.output(hidden)
        if self.ballast is not None:
            logits = logits + 0.0 * self.ballast(torch.zeros(len(points), 1, dtype=torch.int64)).sum(1, keepdim=True)
        return logits


class Table:
    """A file that is read page by page, at random.

    Args:
        path: of the file.
        evict: forget everything that was read before each reading.
        limit: bytes of a control group that this process joins with its first reading.
    """

    def __init__(self, path: str, *, evict: bool, limit: int) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        self._evict, self._limit = evict, limit
        self._random = random.Random(os.getpid())

    def read(self, pages: int) -> None:
        """Read so many pages."""
        if self._limit:
            join_group(self._limit)
            self._limit = 0
        if self._evict:
            self._map.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        for page in self._random.sample(range(len(self._map) // PAGE), pages):
            self._map[page * PAGE]


GROUPS = Path("/sys/fs/cgroup/memory")
"""Where control groups of version 1 limit memory."""


def join_group(limit: int) -> None:
    """Let this process use so many bytes of memory beyond what it has already."""
    group = GROUPS / f"ganglion-bench-{os.getpid()}"
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(limit))
    (group / "cgroup.procs").write_text(str(os.getpid()))


class Slow(Callback):
    """Takes its time after each step.

    Args:
        sleep: seconds.
        index: of the only worker that does; by default all.
    """

    replicated = True

    def __init__(self, *, sleep: float, index: int | None = None) -> None:
        self._sleep = sleep if index is None or current_member().index == index else 0.0

    def get_state(self) -> dict[str, Any]:
        """Nothing that another process needs."""
        return {}

    def on_step_end(self, training: Training) -> None:
        """Wait."""
        time.sleep(self._sleep)


class OverTcp(Callback):
    """Has its worker listen on the loopback interface, as a worker on another host would on its own address."""

    replicated = True

    def __init__(self) -> None:
        current_member()._listen_at = "tcp:127.0.0.1"  # before the worker says where it is


class OnAndOff(Callback):
    """Switches the stopwatch off and on, block of steps after block of steps, and writes down what each took.

    Args:
        folder: for a file of lines `on wall cpu`, in which `on` is 0 or 1, and the others are seconds.
        steps: in a block.
    """

    replicated = True

    def __init__(self, *, folder: str, steps: int) -> None:
        self._file = (Path(folder) / f"{current_member().name}.blocks").open("w")
        self._steps = steps
        self._on = True
        self._began = (time.perf_counter(), time.thread_time())
        self._real = (StepTimer.start, StepTimer.ended, StepTimer.finish, Survey.say, Survey.hear)

    def get_state(self) -> dict[str, Any]:
        """Nothing that another process needs."""
        return {}

    def on_step_end(self, training: Training) -> None:
        """At the end of a block: write, and switch."""
        if training.step % self._steps:
            return
        wall, cpu = time.perf_counter() - self._began[0], time.thread_time() - self._began[1]
        self._file.write(f"{int(self._on)} {wall} {cpu}\n")
        self._file.flush()
        self._on = not self._on
        StepTimer.start, StepTimer.ended, StepTimer.finish, Survey.say, Survey.hear = (  # type: ignore[method-assign]
            self._real if self._on else (_begin, _seconds, _nothing, _silence, _nothing)
        )
        self._began = (time.perf_counter(), time.thread_time())


def _nothing(*_given: object) -> None:
    return None


def _silence(_survey: Survey) -> bool:
    return False


def _begin(timer: StepTimer) -> None:
    timer._began = time.perf_counter()


def _seconds(timer: StepTimer, stage: Stage) -> float:
    """What the mapping of workers is balanced by, which it needs without diagnosis as well."""
    return time.perf_counter() - timer._began if stage is Stage.COMPUTE else 0.0
