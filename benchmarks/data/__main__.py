"""Ours beside the peers and the floors: `python -m benchmarks.data [--json] [--quick] [--elastic] [PART ...]`.

Parts: `images`, Fashion-MNIST globally shuffled in float32 batches of 64 and of 1,024; `parquet`, the first epoch of a
table of 2 million rows and 20 columns; `csv`, the same table read in order. All of them if none is given.

Every peer runs in an environment of its own, made on first use (see `peers.environments`), and in a process of its own.
First every configuration of its grid is measured, then the best of everybody take turns, round after round. A figure
counts whole epochs, with what it takes to begin them, after one that does not count. Ratios are taken round by round,
and their median is printed. `--quick` shows that everything runs: its images fit in a processor's cache, which flatters
the floors, and epochs of slow peers are broken off, which does them wrong.

`--elastic` prints, for everybody who can go on with another number of ranks, what was lost, duplicated, hung or refused
in one epoch whose ranks are 1, 2, 5, 3, 8 and 1, and in one that ends on 5 ranks.

Other measurements of the area have modules of their own, such as `benchmarks.data.tables` and `benchmarks.data.memory`.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.data import tables
from benchmarks.data.peers.contest import Contestant, Effort, compete, of_case, of_process
from benchmarks.data.peers.environments import NotInstallableError
from benchmarks.data.peers.process import OURS, PeerFailedError, PeerHungError, PeerProcess
from benchmarks.data.peers.report import show_context, show_scores, show_standings, standings_data
from benchmarks.data.peers.scoreboard import SCHEDULE, UNEVEN, Score, score
from benchmarks.harness import environment
from ganglion.data import fashion_mnist

PEERS = ("torchdata", "tensorflow", "grain", "streaming", "ray", "webdataset", "datasets")
PARTS = ("images", "parquet", "csv")
BATCHES = (64, 1024)

TARGETS: dict[str, dict[str, float]] = {
    "images 64": {
        "DataLoader, __getitem__": 12.0,
        "DataLoader, __getitems__": 1.5,
        "DataLoader, BatchSampler": 2.5,
        "tf.data": 4.0,
        "Grain": 30.0,
        "Streaming": 60.0,
        "Ray Data, random_shuffle": 40.0,
    },
    "images 1024": {
        "floor: NumPy gather and scale, recycled memory": 0.85,
        "floor: NumPy gather and scale, fresh memory": 0.6,
    },
    "parquet": {"Parquet: pyarrow read, NumPy gather": 1 / 1.3},
    "csv": {"CSV: pyarrow": 1 / 1.2},
}
"""How many times as fast as these ours is meant to be."""

SEARCH = {True: Effort(seconds=0.1, limit=2.0, rounds=1), False: Effort(seconds=0.5, limit=20.0, rounds=2)}
FINAL = {True: Effort(seconds=0.3, limit=4.0, rounds=3), False: Effort(seconds=2.0, limit=60.0, rounds=5)}
IMAGES = {True: 30_000, False: 60_000}
ROWS = {True: 100_000, False: 2_000_000}
"""By whether it has to be quick."""

TABLE_LIMIT = 300.0
"""Seconds after which an epoch of a table is broken off."""

ELASTIC_RECORDS, ELASTIC_BATCH, ELASTIC_PATIENCE = 6_007, 60, 180.0


def image_files(folder: Path, count: int) -> dict[str, Path]:
    """The first `count` images and their labels as `.npy`."""
    source = fashion_mnist("train")
    images = np.frombuffer(gzip.decompress(Path(source.images).read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress(Path(source.labels).read_bytes()), np.uint8, offset=8)
    files = {"images": folder / "images.npy", "labels": folder / "labels.npy"}
    np.save(files["images"], images.reshape(-1, 28, 28)[:count])
    np.save(files["labels"], labels[:count].astype(np.int64))
    return files


def start(
    names: Sequence[str], folder: Path, files: dict[str, Path], stack: contextlib.ExitStack
) -> tuple[list[PeerProcess], dict[str, str]]:
    """Start the programs of all peers; those that run, and the reasons of those that do not."""
    running: list[PeerProcess] = []
    absent: dict[str, str] = {}
    for name in names:
        say(f"starting {name}")
        try:
            running.append(stack.enter_context(PeerProcess(name, folder, files, BATCHES)))
        except NotInstallableError as error:
            absent[name] = f"cannot be installed: {error}"
        except PeerFailedError as error:
            absent[name] = f"does not start: {error}"
    return running, absent


def contests(
    part: str, running: Sequence[PeerProcess], files: dict[str, Path], images: int, rows: int
) -> dict[str, Any]:
    """The contests of a part: by title, the key of the targets, the name of ours, and the contestants."""
    if part == "images":
        return {
            f"Fashion-MNIST, {images:,} images, shuffled, float32, batches of {batch:,}": (
                f"images {batch}",
                "Ganglion",
                [contestant for process in running for contestant in of_process(process, part, batch)],
            )
            for batch in BATCHES
        }
    label = {"parquet": "Parquet", "csv": "CSV"}[part]
    inside: list[Contestant] = [
        of_case(case, rows) for case in tables.cases(files["parquet"], files["csv"]) if case.name.startswith(label)
    ]
    peers = [contestant for process in running for contestant in of_process(process, part, tables.BATCH)]
    return {f"{label}, {rows:,} rows of {tables.COLUMNS} columns": (part, f"{label}: ours", inside + peers)}


def elastic(running: Sequence[PeerProcess], schedule: Sequence[tuple[int, int | None]]) -> dict[str, Score | str]:
    """Run an elastic epoch of everybody who has a way through it."""
    scores: dict[str, Score | str] = {}
    for process in running:
        for way in process.ways:
            say(f"elastic epoch: {way}")
            arguments = (ELASTIC_RECORDS, ELASTIC_BATCH, ELASTIC_PATIENCE)
            try:
                undisturbed = process.elastic(way, [(1, None)], *arguments)
                scores[way] = score(process.elastic(way, schedule, *arguments), undisturbed, ELASTIC_RECORDS)
            except PeerHungError as error:
                scores[way] = f"hung: {error}"
                break  # the program is still at it
            except PeerFailedError as error:
                scores[way] = f"failed: {error}"
    return scores


def say(what: str) -> None:
    """Tell who waits what is going on."""
    sys.stderr.write(f"{what}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="fewer records, shorter and fewer rounds")
    parser.add_argument("--elastic", action="store_true", help="the scoreboard of elastic epochs instead")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them, by name: %(default)s")
    parser.add_argument("--rounds", type=int, help="how often the best take turns")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ganglion-benchmarks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args(arguments)
    names = [name for name in given.peers.split(",") if name]
    for value, allowed in [(name, PEERS) for name in names] + [(part, PARTS) for part in given.parts]:
        if value not in allowed:
            parser.error(f"there is no {value!r}; there are {', '.join(allowed)}")
    final = FINAL[given.quick]
    if given.rounds is not None:
        final = replace(final, rounds=given.rounds)
    parts = () if given.elastic else given.parts or PARTS
    given.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder)))
        files = image_files(folder, IMAGES[given.quick])
        rows = ROWS[given.quick]
        if {"parquet", "csv"} & set(parts):
            files["parquet"], files["csv"] = tables.files(given.folder, rows)
        running, absent = start([OURS, *names], folder, files, stack)
        if OURS in absent:
            raise SystemExit(f"{OURS} {absent[OURS]}")
        context = environment(["pyarrow"]) | {
            package: version for process in running for package, version in process.versions.items()
        }
        document: dict[str, Any] = {"benchmark": "data", "environment": context, "absent": absent}
        if not given.json:
            show_context(context)
        for part in parts:
            for title, (key, ours, contestants) in contests(part, running, files, IMAGES[given.quick], rows).items():
                search, last = SEARCH[given.quick], final
                if part != "images":  # one cold epoch says nothing unless it comes to its end
                    search, last = replace(search, limit=TABLE_LIMIT), replace(last, limit=TABLE_LIMIT)
                standings = compete(contestants, search, last, say)
                found = document[key] = standings_data(standings, ours, TARGETS[key])
                if not given.json:
                    show_standings(title, found, absent)
        if given.elastic:
            for schedule in (SCHEDULE, UNEVEN):
                ranks = " -> ".join(str(world) for world, _steps in schedule)
                scores = elastic(running, schedule)
                document[f"elastic {ranks}"] = {
                    way: asdict(found) if isinstance(found, Score) else {"problem": found}
                    for way, found in scores.items()
                }
                if given.json:
                    continue
                show_scores(f"One epoch of {ELASTIC_RECORDS:,} records on {ranks} ranks", scores | absent)
    if given.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
