"""What it costs to compare checksums: `python -m benchmarks.data.checksums [--json] [--mebibytes N] [--repetitions N]`.

Files with checksums are read with and without comparing them: by one process, by two at once (two cores then have
nothing left over in which something could be hidden), and to prepare a dataset. Shown is how much longer it takes, and
how much more time of processors; each is the median of the ratios of neighbours, which take turns in going first. The
last columns are absolute: the least time of processors for a mebibyte that is read by one process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from ganglion.artifacts.store import FolderStore
from ganglion.data.preparation.driver import prepare
from ganglion.data.records.bad_record import refuse
from ganglion.data.source import PlainSource, source_data, source_from
from ganglion.data.sources.parquet import ParquetSource
from ganglion.data.sources.tfrecord import TFRecordSource, write_tfrecord

SIZE = 2**22
TIMES = ("one reader", "two readers", "preparing")

Spent = tuple[float, float]
"""Seconds that passed, and seconds of processors."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file with checksums: what it is, how it is read, and its bytes."""

    format: str
    records: str
    source: TFRecordSource | ParquetSource
    size: int


def tfrecords(folder: Path, size: int) -> Iterator[File]:
    """Raw records, and examples with an image and a label, of several sizes."""
    source = np.random.default_rng(0)
    for format, bytes_ in [
        *(("bytes", at) for at in (50, 200, 800, 10_000, 100_000)),
        ("example", 200),
        ("example", 10_000),
    ]:
        path = folder / f"{format}-{bytes_}.tfrecord"
        some = (source.bytes(bytes_) for _ in range(size // bytes_))
        write_tfrecord(path, some if format == "bytes" else ({"image": each, "label": len(each) % 7} for each in some))
        made = TFRecordSource(paths=str(path), format=format)
        yield File(format=f"TFRecord, {format}", records=f"{bytes_} B", source=made, size=path.stat().st_size)


def parquet(folder: Path, size: int) -> Iterator[File]:
    """Byte strings in small pages and in those that are written by default, and columns of numbers."""
    values = np.random.default_rng(0)
    kind = pa.binary(200)
    strings = pa.Array.from_buffers(kind, size // 200, [None, pa.py_buffer(values.bytes(size // 200 * 200))])
    text = pa.table([strings], pa.schema([pa.field("record", kind, nullable=False)]))
    numbers = pa.table({f"c{at}": values.standard_normal(size // 80, np.float32) for at in range(20)})
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    for name, table, options in (
        ("200 B, 16 to a page", text, plain | {"max_rows_per_page": 16, "write_statistics": False}),
        ("200 B", text, plain),
        ("20 floats", numbers, plain),
        ("20 floats, zstd", numbers, plain | {"compression": "zstd"}),
    ):
        path = folder / f"{name}.parquet"
        pq.write_table(table, path, write_page_checksum=True, **options)
        yield File(format="Parquet", records=name, source=ParquetSource(paths=str(path)), size=path.stat().st_size)


def work(orders: Connection, folder: str) -> None:
    """Read or prepare what is asked for, until there is nothing more; answer with seconds of processors."""
    while (order := orders.recv()) is not None:
        task, data = order
        source = source_from(data)
        started = time.process_time()
        if task == "preparing":
            with tempfile.TemporaryDirectory(dir=folder) as store:
                prepare(source, FolderStore(Path(store)))
        else:
            for unit in source.units():
                for batch in source.read_unit(unit, SIZE, refuse):
                    del batch
        orders.send(time.process_time() - started)


def spent(readers: Sequence[Connection], task: str, source: PlainSource) -> Spent:
    """What it takes when all of some processes do the same at once."""
    order = (task, source_data(source))
    started = time.perf_counter()
    for reader in readers:
        reader.send(order)
    processors = sum(reader.recv() for reader in readers)
    return time.perf_counter() - started, processors


def measure(readers: Sequence[Connection], file: File, repetitions: int) -> dict[str, Any]:
    """The row of one file."""
    row: dict[str, Any] = {"format": file.format, "records": file.records}
    unverified = msgspec.structs.replace(file.source, verify=False)
    for task in TIMES:
        some = readers if task == "two readers" else readers[:1]
        spent(some, task, file.source)  # fingerprints are remembered, pages are cached
        pairs: list[tuple[Spent, Spent]] = []
        for number in range(repetitions):
            if number % 2:
                without = spent(some, task, unverified)
                pairs.append((spent(some, task, file.source), without))
            else:
                pairs.append((spent(some, task, file.source), spent(some, task, unverified)))
        for at, name in ((0, task), (1, f"{task}, processors")):
            row[name] = statistics.median(verified[at] / without[at] for verified, without in pairs) - 1
        if task == "one reader":
            least = [min(times[which][1] for times in pairs) * 2**20 / file.size for which in (1, 0)]
            row |= {"microseconds": least[0] * 1e6, "microseconds of checks": (least[1] - least[0]) * 1e6}
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of a table")
    parser.add_argument("--mebibytes", type=int, default=32, help="of each file")
    parser.add_argument("--repetitions", type=int, default=15)
    given = parser.parse_args(arguments)
    rows = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ganglion-checksums-") as name:
        readers: list[Connection] = []
        for _ in range(2):
            here, there = context.Pipe()
            context.Process(target=work, args=(there, name), daemon=True).start()
            readers.append(here)
        for write in (tfrecords, parquet):
            files = write(Path(name), given.mebibytes * 2**20)
            rows.extend(measure(readers, file, given.repetitions) for file in files)
        for reader in readers:
            reader.send(None)
    versions = environment(("pyarrow", "numpy", "google-crc32c", "isal")) | {"mebibytes": given.mebibytes}
    if given.json:
        document = {"benchmark": "checksums", "environment": versions, "rows": rows}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
        return 0
    table = Table("format", "records", title="More time with checksums than without: what passes / of processors")
    for heading in (*TIMES, "µs/MiB without", "µs/MiB of checks"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = [f"{row[task]:+.1%} / {row[f'{task}, processors']:+.1%}" for task in TIMES]
        costs = [f"{row[cost]:.0f}" for cost in ("microseconds", "microseconds of checks")]
        table.add_row(row["format"], row["records"], *ratios, *costs)
    console = Console(width=max(Console().width, 140))
    console.print(", ".join(f"{key} {value}" for key, value in versions.items()), highlight=False)
    console.print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
