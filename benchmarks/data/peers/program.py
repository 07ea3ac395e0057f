"""A peer as a program: requests are lines of JSON on standard input, answers are lines of JSON on standard output.

It runs in the peer's own environment, so it imports nothing but the standard library and NumPy. The requests:

- `prepare`: here are the files; bring them into the peer's own form. Answers the versions and the grid.
- `measure`: run one configuration of the grid. Answers seconds and records.
- `elastic`: run one epoch through changes of the number of ranks. Answers what each phase delivered.

What a library prints goes to standard error, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Configuration = dict[str, Any]
"""Options of one point of the grid, by name; `as` names the contestant whose grid it belongs to."""

Epochs = Callable[[], Iterable[Any]]
"""Starts an epoch of batches each time it is called."""

Schedule = list[tuple[int, int | None]]
"""Ranks, and the batches that each of them takes before their number changes; `None` for the rest of the epoch."""

SCALE = np.float32(1 / 255)
"""What a pixel is multiplied with."""


class RefusedError(Exception):
    """The peer has no way to go on, or says that it cannot; says why."""


@dataclass(kw_only=True)
class Phase:
    """What the ranks of one phase of an elastic epoch delivered.

    Attributes:
        world: number of ranks.
        batches: for each rank, for each step, the numbers of the records that it delivered.
        refused: why the peer did not go on into this phase; empty if it did.
    """

    world: int
    batches: list[list[list[int]]] = field(default_factory=list)
    refused: str = ""


class Peer:
    """What a peer's program derives from.

    Attributes:
        packages: whose versions are reported.
        ways: names of its ways through an elastic epoch; none if it has no state and nothing to restart.
        files: `images`, `(n, 28, 28)` uint8, and `labels`, `(n,)` int64, as `.npy`; `parquet` and `csv`, the table
            of float columns, where tables are measured.
        folder: a place of its own.
    """

    packages: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    files: dict[str, Path]
    folder: Path

    def prepare(self) -> None:
        """Bring the files into the peer's own form under `folder`, where that is how it is used."""

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """The configurations worth trying for `what`: `images`, `parquet` or `csv`; none where the peer has none."""
        raise NotImplementedError

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """Build the pipeline of a configuration.

        A batch of images is a pair of float32 pixels from 0 to 1, `(batch, 28, 28)`, and labels; one of a table is its
        columns, as a dictionary or a sequence. They may be of any type that has a `shape`. Images and Parquet come
        shuffled, CSV comes as it is read.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what the last pipeline holds before the next one is built."""

    def end(self) -> None:
        """Leave nothing behind; the last that is called."""

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Run one shuffled epoch of the numbers 0 to `records` - 1 through changes of the number of ranks.

        Args:
            way: which of `ways`.
            schedule: the changes.
            records: how many there are.
            batch: records of a global batch; a rank takes `batch // world` at a time.

        Raises:
            RefusedError: the peer does not go on into the phase after the last one yielded.
        """
        raise NotImplementedError


def serve(peer: Peer) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _ANSWERS[request.pop("do")](peer, **request)
        except Exception as error:  # noqa: BLE001  # whatever it is, the report names it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
    peer.end()


def _prepare(peer: Peer, folder: str, files: dict[str, str], batches: list[int]) -> dict[str, Any]:
    peer.folder, peer.files = Path(folder), {name: Path(path) for name, path in files.items()}
    peer.folder.mkdir(parents=True, exist_ok=True)
    peer.prepare()
    return {
        "versions": {package: version(package) for package in peer.packages},
        "grid": {
            what: {str(batch): peer.grid(what, batch) for batch in batches} for what in ("images", "parquet", "csv")
        },
        "ways": list(peer.ways),
    }


def _measure(
    peer: Peer, what: str, batch: int, configuration: Configuration, seconds: float, limit: float
) -> dict[str, Any]:
    """Run whole epochs until `seconds` are over, and break off after `limit` seconds.

    Images are measured warm: one epoch goes before, which does not count, so that workers that outlive an epoch are
    there. A table is measured cold, one epoch from opening the file on.
    """
    warm = what == "images"
    expected = len(np.load(peer.files["labels"], mmap_mode="r"))
    begin = time.perf_counter()
    records, complete, taken = 0, 0, 0.0
    try:
        epochs = peer.epochs(what, batch, configuration)
        if warm:
            begin = time.perf_counter()
            _warm_up(epochs, begin + limit)
            begin = time.perf_counter()
        while taken < limit and not (complete and (taken >= seconds or not warm)):
            before = records
            for delivered in epochs():
                records += _count(delivered)
                taken = time.perf_counter() - begin
                if taken >= limit:
                    break
            else:
                complete += 1
                taken = time.perf_counter() - begin
                if warm and records - before != expected:
                    raise AssertionError(f"An epoch of {expected} records had {records - before}.")
        del epochs
    finally:
        peer.close()
        gc.collect()
    return {"seconds": taken, "records": records, "epochs": complete}


def _warm_up(epochs: Epochs, end: float) -> None:
    """Run an epoch, or what fits in until `end`, and see that its batches are what everybody has to deliver."""
    for number, delivered in enumerate(epochs()):
        if not number:
            _check(delivered)
        if time.perf_counter() >= end:
            break


def _count(batch: Any) -> int:
    column = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return int(column.shape[0])


def _check(batch: Any) -> None:
    """See that a batch is what every contestant has to deliver."""
    values = np.asarray(batch[0])
    if values.dtype != np.float32 or values.shape[1:] != (28, 28) or not 0.5 < float(values.max()) <= 1.0:
        raise AssertionError(f"A batch came as {values.dtype} {values.shape} from {values.min()} to {values.max()}.")


def _elastic(peer: Peer, way: str, schedule: Schedule, records: int, batch: int) -> dict[str, Any]:
    phases: list[dict[str, Any]] = []
    try:
        for phase in peer.elastic(way, schedule, records, batch):
            phases.append(asdict(phase))  # noqa: PERF401  # what there is stays when the next one is refused
    except Exception as error:  # noqa: BLE001  # the peer's own error is how it refuses
        traceback.print_exc()
        name = "" if isinstance(error, RefusedError) else f"{type(error).__name__}: "
        world = schedule[min(len(phases), len(schedule) - 1)][0]
        phases.append(asdict(Phase(world=world, refused=name + _first_line(error))))
    return {"phases": phases}


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).strip().splitlines() if line.strip()), "no message")[:300]


_ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {"prepare": _prepare, "measure": _measure, "elastic": _elastic}
