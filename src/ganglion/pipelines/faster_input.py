"""More means for the records of a training that is bound by its input; the result stays the same to the last bit.

What a source delivers is a function of the epoch and the step, so how many threads or processes read it, and how far
ahead, changes the time alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core import config
from ganglion.core.resources import cores
from ganglion.data import open_dataset
from ganglion.execution.entry import Entry
from ganglion.training import BatchSource, Factory, TrainingPlan
from ganglion.training.source import Columns

READERS = 4
"""Threads that read at the same time, at least: most of them wait for a disk or a network."""

_BLOCK = 2
"""Steps that one reader makes before the next one's turn; to begin elsewhere costs a source something."""

_LOADERS = ("ganglion.data.loading.loader:open_loader", "ganglion.data:open_loader")
_AHEAD = Entry(path=f"{__name__}:open_ahead")


class FasterInput(NamedTuple):
    """A plan whose records come faster.

    Attributes:
        plan: the same training.
        changes: what is different, in sentences.
    """

    plan: TrainingPlan
    changes: tuple[str, ...]


def faster_input(plan: TrainingPlan, *, workers: int) -> FasterInput:
    """Give the training records of a plan more threads, processes and memory.

    A loader of a prepared dataset gets more threads, or processes where transforms are applied while it loads, and
    enough memory to keep all files mapped, if half of what is free suffices. Any other source is read ahead by several
    threads, each with a source of its own.

    Args:
        plan: a training.
        workers: that it will have.
    """
    if plan.train.entry.path in _LOADERS:
        changed = _with_loader_options(plan.train.arguments, workers)
        changes = tuple(
            f"{name}={value!r} instead of {plan.train.arguments.get(name, 'the default')!r} for the loader"
            for name, value in changed.items()
        )
        train = Factory(entry=plan.train.entry, arguments={**plan.train.arguments, **changed})
    elif plan.train.entry == _AHEAD:
        return FasterInput(plan, ())
    else:
        inner = {"source": msgspec.to_builtins(plan.train), "readers": READERS}
        train = Factory(entry=_AHEAD, arguments=inner)
        changes = (f"{READERS} threads read ahead, each with a source of its own",)
    return FasterInput(msgspec.structs.replace(plan, train=train), changes)


def _with_loader_options(arguments: dict[str, Any], workers: int) -> dict[str, Any]:
    """The options of a loader that change, and nothing that a person asked for is made less."""
    changed: dict[str, Any] = {}
    if arguments.get("transforms"):
        if "workers" not in arguments:
            changed["workers"] = "processes"
        wanted = max(2, 2 * cores() // workers)
    else:
        wanted = max(READERS, 2 * cores() // workers)
    if (arguments.get("parallel") or 0) < wanted:
        changed["parallel"] = wanted
    dataset = open_dataset(msgspec.convert(arguments["dataset"], Artifact), FolderStore(Path(arguments["store"])))
    mapped = sum(segment.segment.size for segment in dataset.segments)
    needed = max(_DEFAULT, 2 * mapped)
    if needed > (arguments.get("memory") or _DEFAULT) and needed < psutil.virtual_memory().available // 2:
        changed["memory"] = needed
    return changed


_DEFAULT = 512 * 2**20
"""Bytes that a loader may take where nobody says how many."""


class ReadAhead:
    """A source that several threads read ahead.

    They take turns by blocks of steps, and each has a source of its own, which it reads from wherever its next block
    begins. The records are those of the source, as long as it keeps to the protocol: what it yields depends on
    nothing but what it is asked for.

    Args:
        sources: as many as there are to be threads; built alike.

    Attributes:
        count: as for `BatchSource`, like the next two.
        steps_per_epoch: of the sources.
        global_batch: of the sources.
    """

    def __init__(self, sources: list[BatchSource]) -> None:
        self._sources = sources
        self.count = sources[0].count
        self.steps_per_epoch = sources[0].steps_per_epoch
        self.global_batch = sources[0].global_batch

    def batches(self, epoch: int, *, first: int, last: int, of: int, start: int = 0) -> Iterator[Columns]:
        """As `BatchSource` says; closing the iterator ends the threads."""
        starts = range(start, self.steps_per_epoch, _BLOCK)
        readers = len(self._sources)

        def read(number: int) -> tuple[list[Columns], Exception | None]:
            source = self._sources[number % readers]  # free again: its last block has been handed out
            batches = source.batches(epoch, first=first, last=last, of=of, start=starts[number])
            made: list[Columns] = []
            try:
                for batch in islice(batches, _BLOCK):
                    made.append(batch)  # noqa: PERF402  # what came before an error counts
            except Exception as error:  # noqa: BLE001  # raised where its batch would have been
                return made, error
            return made, None

        executor = ThreadPoolExecutor(readers, thread_name_prefix="read-ahead")
        try:
            waiting = deque(executor.submit(read, number) for number in range(min(readers, len(starts))))
            rest = iter(range(readers, len(starts)))
            while waiting:
                made, error = waiting.popleft().result()
                if error is None and (number := next(rest, None)) is not None:
                    waiting.append(executor.submit(read, number))
                yield from made
                if error is not None:
                    raise error
        finally:
            executor.shutdown(cancel_futures=True)


def open_ahead(*, source: dict[str, Any], readers: int, **arguments: Any) -> ReadAhead:
    """Build a source several times, as a training process does.

    Args:
        source: a `Factory` as plain data.
        readers: how often.
        arguments: of the source, in addition to or instead of its own.
    """
    factory = config.convert(Factory, source, where="source")
    return ReadAhead(
        [Factory(entry=factory.entry, arguments={**factory.arguments, **arguments}).build() for _ in range(readers)]
    )
