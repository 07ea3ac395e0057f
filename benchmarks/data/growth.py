"""A dataset that grows by a tenth: bytes that are written and moved, beside the least that is possible.

    python -m benchmarks.data.growth [--records 200000] [--json]

Written: what `grow` adds to the store, beside the bytes of the new records and beside preparing everything again.
Moved: records that another worker has after balancing anew, beside the least for which all shards are balanced, and
beside dividing without regard to who had what.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from ganglion.artifacts.store import FolderStore
from ganglion.data import Field, Loader, grow, open_dataset, prepare
from ganglion.data.dataset.balance import Shards, divide, moved, rebalance
from ganglion.data.records.bad_record import SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource

RECORD = 28 * 28 + 8
"""Bytes of a record: an image and its label."""

UNITS = 10


class MadeUp(PlainSource, frozen=True, tag="benchmarks.data.growth:MadeUp"):
    """Random images in units of equal size, as files that arrive one after the other.

    Attributes:
        units_now: how many there are.
        records: in each.
    """

    units_now: int
    records: int

    @property
    def schema(self) -> Schema:
        """An image and its label."""
        return (Field("image", "uint8", (28, 28)), Field("label", "int64"))

    def units(self) -> Sequence[Unit]:
        """One for each file."""
        return [
            Unit(
                number=number,
                name=f"file {number}",
                path=f"file {number}",
                size=self.records * RECORD,
                records=self.records,
                fingerprint=str(number),
            )
            for number in range(self.units_now)
        ]

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """Images that depend on the number of the file alone."""
        draw = np.random.default_rng(unit.number)
        step = max(1, size // RECORD)
        for first in range(0, self.records, step):
            count = min(step, self.records - first)
            images = draw.integers(0, 256, (count, 28, 28), np.uint8)
            yield Batch({"image": images, "label": np.arange(count)}, unit.ids(first, first + count))

    def fingerprint(self) -> str:
        """Of the number of files."""
        return digest_of(f"{self.units_now} {self.records}".encode())


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What growing cost, in bytes and seconds."""

    records: int
    added: int
    least: int
    written: int
    again: int
    seconds: float
    seconds_again: float
    epoch_unchanged: bool


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What balancing moves, in bytes."""

    change: str
    least: int
    moved: int
    anew: int
    spread: float


def measure_written(records: int) -> Written:
    """Prepare, grow by a tenth in the middle of an epoch, and prepare everything again elsewhere."""
    before, after = MadeUp(UNITS, records // UNITS), MadeUp(UNITS + 1, records // UNITS)
    with tempfile.TemporaryDirectory(prefix="ganglion-growth-") as folder:
        store = FolderStore(Path(folder) / "store")
        old = prepare(before, store)
        expected = _labels(Loader(old, global_batch=1000).batches(0, first=0, last=1, of=1))
        running = Loader(open_dataset(old.artifact, store), global_batch=1000).batches(0, first=0, last=1, of=1)
        labels = [next(running)["label"].sum()]
        held = dict(store.digests())
        started = time.perf_counter()
        new = grow(old, after, store)
        seconds = time.perf_counter() - started
        labels += _labels(running)
        written = sum(size for digest, size in store.digests() if digest not in held)
        started = time.perf_counter()
        again = prepare(after, FolderStore(Path(folder) / "again"))
        seconds_again = time.perf_counter() - started
        return Written(
            records=old.count,
            added=new.count - old.count,
            least=(new.count - old.count) * RECORD,
            written=written,
            again=again.artifact.size,
            seconds=seconds,
            seconds_again=seconds_again,
            epoch_unchanged=labels == expected,
        )


def measure_moved(records: int) -> list[Moved]:
    """Balance after growth, with other workers, and both."""
    more = records + records // 10
    changes: list[tuple[str, list[float], int, list[float]]] = [
        ("+10% data, 8 workers", [1.0] * 8, more, [1.0] * 8),
        ("8 to 9 workers", [1.0] * 8, records, [1.0] * 9),
        ("8 to 7 workers", [1.0] * 8, records, [1.0] * 7),
        ("+10% data, 8 to 12 workers", [1.0] * 8, more, [1.0] * 12),
        ("+10% data, one worker half as fast", [1.0] * 8, more, [1.0] * 7 + [0.5]),
    ]
    found = []
    for change, first, count, second in changes:
        shards = divide(records, first)
        balanced = rebalance(shards, count, second)
        sizes = [shard.count for shard in balanced]
        found.append(
            Moved(
                change=change,
                least=RECORD * _least(shards, count, second),
                moved=RECORD * moved(shards, balanced),
                anew=RECORD * moved(shards, divide(count, second)),
                spread=max(
                    abs(size * sum(second) / (count * weight) - 1) for size, weight in zip(sizes, second, strict=True)
                ),
            )
        )
    return found


def _least(shards: Shards, count: int, weights: Sequence[float]) -> int:
    """Records that some worker has too many for its share, rounded in the workers' favour."""
    shares = [-(-count * weight // sum(weights)) for weight in weights]
    kept = sum(max(0, shard.count - int(share)) for shard, share in zip(shards, shares, strict=False))
    return kept + sum(shard.count for shard in shards[len(weights) :])


def _labels(batches: Iterator[dict[str, np.ndarray]]) -> list[int]:
    return [batch["label"].sum() for batch in batches]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    written, moves = measure_written(given.records), measure_moved(given.records)
    if given.json:
        document = {"written": msgspec.to_builtins(written), "moved": msgspec.to_builtins(moves)}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
        return
    console = Console(width=max(Console().width, 120))
    grown = Table("", title=f"{written.records:,} records and {written.added:,} more")
    for heading in ("MB", "of the least", "seconds"):
        grown.add_column(heading, justify="right")
    grown.add_row("the new records themselves", f"{written.least / 1e6:.1f}", "1.0000", "")
    grown.add_row(
        "grow", f"{written.written / 1e6:.1f}", f"{written.written / written.least:.4f}", f"{written.seconds:.2f}"
    )
    grown.add_row(
        "prepare everything again",
        f"{written.again / 1e6:.1f}",
        f"{written.again / written.least:.4f}",
        f"{written.seconds_again:.2f}",
    )
    console.print(grown)
    console.print(f"An epoch that was running saw nothing of it: {written.epoch_unchanged}")
    table = Table("change", title="moved to another worker")
    for heading in ("least, MB", "moved, MB", "ratio", "divided anew, MB", "largest deviation"):
        table.add_column(heading, justify="right")
    for one in moves:
        ratio = f"{one.moved / one.least:.4f}" if one.least else "nothing moves" if not one.moved else "inf"
        table.add_row(
            one.change,
            f"{one.least / 1e6:.1f}",
            f"{one.moved / 1e6:.1f}",
            ratio,
            f"{one.anew / 1e6:.1f}",
            f"{one.spread:.4%}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
