"""Flipped bits: `python -m benchmarks.data.corruption [--json] [--records N] [--repetitions N]`.

One bit is flipped in 1,000 of 100,000 records of each format, anywhere in the bytes of the record and of what frames
it. Shown is how many of these records are found, how many others are set aside with them (those in the same page), how
many are delivered with values that were not written, and how many are found damaged in the file as it was written
(false alarms). Records of formats without checksums, whose numbers move where a line is lost, count as found unless
they are delivered changed. For formats with checksums, reading alone and preparing a dataset are timed with and
without comparing them; `benchmarks.data.checksums` does so for several sizes of records. Then a length in a TFRecord
file is broken, and the share of the other records that is still read is shown beside that of tf.data, if TensorFlow is
installed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from ganglion.core.errors import DataError
from ganglion.data.preparation.driver import prepare
from ganglion.data.records.bad_record import BadRecord, refuse
from ganglion.data.records.schema import Field
from ganglion.data.records.unit import unit_of
from ganglion.data.source import PlainSource
from ganglion.data.sources.arrow import ArrowSource
from ganglion.data.sources.csv import CsvSource
from ganglion.data.sources.fixed_length import FixedLengthSource
from ganglion.data.sources.json_lines import JsonLinesSource
from ganglion.data.sources.parquet import ParquetSource
from ganglion.data.sources.parquet_footer import read_footer
from ganglion.data.sources.parquet_pages import Pages
from ganglion.data.sources.tfrecord import TFRecordSource, write_tfrecord

VALUES = 200
"""Each record is so many bytes; in text, a tenth of them as numbers."""

RECORDS, FLIPPED = 100_000, 100
"""Records, and how many of them to each one with a flipped bit."""

SIZE = 2**22
PAGE_ROWS = 16
"""Records to a page of the Parquet file: a damaged page takes all of them."""

TENSORFLOW = Path.home() / ".cache" / "ganglion-tests"
COUNT_WITH_TENSORFLOW = """
import sys, tensorflow as tf
found = 0
try:
    for record in tf.data.TFRecordDataset(sys.argv[1]):
        found += 1
except tf.errors.DataLossError:
    pass
print(found)
"""

Span = tuple[int, int]
"""First byte of a record in its file, and the one behind its last."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file with all records, and how it is read.

    Attributes:
        format: for people.
        path: of the file.
        source: reads it.
        spans: where each record lies.
        unverified: reads it without comparing checksums, where there are any.
    """

    format: str
    path: Path
    source: PlainSource
    spans: list[Span]
    unverified: PlainSource | None = None


def tfrecord(folder: Path, values: np.ndarray) -> Written:
    """Raw records."""
    path = folder / "records.tfrecord"
    write_tfrecord(path, (each.tobytes() for each in values))
    size = values.shape[1] + 16
    source = TFRecordSource(paths=str(path), format="bytes")
    return Written(
        format="TFRecord",
        path=path,
        source=source,
        spans=[(at * size, at * size + size) for at in range(len(values))],
        unverified=msgspec.structs.replace(source, verify=False),
    )


def parquet(folder: Path, values: np.ndarray) -> Written:
    """A column of byte strings of fixed size, in small pages with checksums."""
    path = folder / "records.parquet"
    kind = pa.binary(values.shape[1])
    column = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
    table = pa.table([column], pa.schema([pa.field("record", kind, nullable=False)]))
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, max_rows_per_page=PAGE_ROWS, **options)
    source = ParquetSource(paths=str(path))
    footer = read_footer(str(path), "", source.retry)
    spans: list[Span] = []
    with path.open("rb") as file:
        for group in footer.groups:
            for page in Pages(file.fileno(), group.chunks["record"]).pages:
                firsts = range(page.body, page.stop, values.shape[1])
                spans.extend((first, first + values.shape[1]) for first in firsts)
    unverified = msgspec.structs.replace(source, verify=False)
    return Written(format="Parquet", path=path, source=source, spans=spans, unverified=unverified)


def fixed_length(folder: Path, values: np.ndarray) -> Written:
    """The records one behind the other."""
    path = folder / "records.bin"
    path.write_bytes(values.tobytes())
    size = values.shape[1]
    source = FixedLengthSource(paths=str(path), fields=(Field("record", "uint8", (size,)),))
    return Written(
        format="fixed length",
        path=path,
        source=source,
        spans=[(at * size, at * size + size) for at in range(len(values))],
    )


def arrow(folder: Path, values: np.ndarray) -> Written:
    """An IPC file with one column of fixed-size lists."""
    path = folder / "records.arrow"
    size = values.shape[1]
    table = pa.table({"record": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    first = path.read_bytes().index(values[0].tobytes())
    return Written(
        format="Arrow IPC",
        path=path,
        source=ArrowSource(paths=str(path)),
        spans=[(first + at * size, first + at * size + size) for at in range(len(values))],
    )


def csv(folder: Path, values: np.ndarray) -> Written:
    """Lines of numbers."""
    numbers = values[:, : VALUES // 10].tolist()
    lines = [",".join(map(str, each)) + "\n" for each in numbers]
    header = ",".join(f"c{number:02d}" for number in range(VALUES // 10)) + "\n"
    path = folder / "records.csv"
    path.write_text(header + "".join(lines))
    fields = tuple(Field(f"c{number:02d}", "uint8") for number in range(VALUES // 10))
    return Written(
        format="CSV", path=path, source=CsvSource(paths=str(path), fields=fields), spans=_lines(lines, len(header))
    )


def json_lines(folder: Path, values: np.ndarray) -> Written:
    """Objects with one list of numbers."""
    lines = [f'{{"record": {each}}}\n' for each in values[:, : VALUES // 10].tolist()]
    path = folder / "records.jsonl"
    path.write_text("".join(lines))
    fields = (Field("record", "uint8", (VALUES // 10,)),)
    source = JsonLinesSource(paths=str(path), fields=fields)
    return Written(format="JSON lines", path=path, source=source, spans=_lines(lines, 0))


def _lines(lines: Sequence[str], first: int) -> list[Span]:
    ends = first + np.cumsum([0, *map(len, lines)])
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


FORMATS: tuple[Callable[[Path, np.ndarray], Written], ...] = (tfrecord, parquet, arrow, fixed_length, csv, json_lines)


def read(source: PlainSource) -> tuple[dict[int, bytes], set[int]]:
    """What each record that is delivered holds, by its number in the file, and those that are set aside."""
    bad: list[BadRecord] = []
    found: dict[int, bytes] = {}
    base = 0
    for unit in source.units():
        for batch in source.read_unit(unit, SIZE, bad.append):
            rows = [
                column.reshape(len(batch), -1).tolist() if isinstance(column, np.ndarray) else column.to_pylist()
                for column in batch.columns.values()
            ]
            for id_, *values in zip(batch.ids.tolist(), *rows, strict=True):
                found[base + unit_of(id_)[1]] = repr(values).encode()
        base += unit.records or 0
    return found, {unit_of(record.id)[1] for record in bad}


def flip(written: Written, source: random.Random) -> set[int]:
    """Flip one bit in each of some records, and return their numbers."""
    hit = set(source.sample(range(len(written.spans)), len(written.spans) // FLIPPED))
    data = bytearray(written.path.read_bytes())
    for record in hit:
        first, last = written.spans[record]
        data[source.randrange(first, last)] ^= 1 << source.randrange(8)
    written.path.write_bytes(data)
    return hit


def detection(written: Written) -> dict[str, Any]:
    """How the format fares."""
    original, alarms = read(written.source)
    hit = flip(written, random.Random(0))
    try:
        found, bad = read(written.source)
    except DataError as error:
        return {"format": written.format, "error": str(error)}
    right = set(original.values())
    changed = sum(value not in right for value in found.values())
    noticed = len(hit & bad) if written.unverified else max(0, len(hit) - changed)
    return {
        "format": written.format,
        "flipped": len(hit),
        "found": noticed,
        "share": noticed / len(hit),
        "with them": len(bad - hit) if written.unverified else None,
        "delivered changed": changed,
        "false alarms": len(alarms),
    }


def own_shards(folder: Path, values: np.ndarray, repetitions: int) -> dict[str, Any]:
    """A prepared dataset: every block with a flipped bit has to be named, and no other."""
    from ganglion.data.dataset.checksum import BLOCK

    source = fixed_length(folder, values).source
    dataset = prepare(source, FolderStore(folder / "store"))
    alarms = sum(1 for _ in dataset.damage())
    without, with_ = [], []
    for _ in range(repetitions):
        started = time.perf_counter()
        for start in range(0, dataset.count, 2**14):
            dataset.slice(start, min(start + 2**14, dataset.count))["record"].sum()
        without.append(time.perf_counter() - started)
        started = time.perf_counter()
        list(dataset.damage())
        with_.append(time.perf_counter() - started)
    bits = random.Random(0)
    hit: set[tuple[str, int]] = set()
    flips = len(values) // FLIPPED
    for number in range(flips):
        segment = dataset.segments[number % len(dataset.segments)]
        segment.path.chmod(0o644)
        with segment.path.open("r+b") as file:
            at = bits.randrange(segment.segment.size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bits.randrange(8)]))
        hit.add((segment.segment.path, at // BLOCK))
    found = {(each.path, each.start // BLOCK) for each in dataset.damage()}
    return {
        "format": "own shards",
        "flipped": len(hit),
        "found": len(hit & found),
        "share": len(hit & found) / len(hit),
        "with them": len(found - hit),
        "delivered changed": None,
        "false alarms": alarms,
        "seconds": statistics.median(without),
        "seconds to verify": statistics.median(with_),
    }


def overhead(written: Written, repetitions: int) -> dict[str, float]:
    """Reading, and preparing, with and without checksums, alternately: the median of the ratios of neighbours.

    Beside the time that passes stands the time of processors: what another one does at once counts there, and what
    other programs take does not.
    """

    def once(source: PlainSource) -> tuple[float, float]:
        started = time.perf_counter(), time.process_time()
        for unit in source.units():
            for batch in source.read_unit(unit, SIZE, refuse):
                del batch
        return time.perf_counter() - started[0], time.process_time() - started[1]

    def prepared(source: PlainSource) -> float:
        with tempfile.TemporaryDirectory(prefix="ganglion-corruption-") as folder:
            started = time.perf_counter()
            prepare(source, FolderStore(Path(folder)))
            return time.perf_counter() - started

    assert written.unverified is not None
    once(written.source)
    prepared(written.source)
    pairs = [(once(written.source), once(written.unverified)) for _ in range(repetitions)]
    whole = [(prepared(written.source), prepared(written.unverified)) for _ in range(repetitions)]
    return {
        "seconds": statistics.median(verified[0] for verified, _ in pairs),
        "seconds unverified": statistics.median(unverified[0] for _, unverified in pairs),
        "overhead": statistics.median(verified[0] / unverified[0] for verified, unverified in pairs) - 1,
        "of processors": statistics.median(verified[1] / unverified[1] for verified, unverified in pairs) - 1,
        "of preparing": statistics.median(verified / unverified for verified, unverified in whole) - 1,
    }


def recovery(folder: Path, values: np.ndarray) -> dict[str, float | None]:
    """The share of intact TFRecord records that is read after a length near the beginning was broken."""
    written = tfrecord(folder, values)
    data = bytearray(written.path.read_bytes())
    broken = len(values) // 100
    data[written.spans[broken][0] + 1] ^= 0x10
    written.path.write_bytes(data)
    found, _bad = read(written.source)
    intact = len(values) - 1
    return {"ours": len(found) / intact, "tf.data": _tensorflow_share(written.path, intact)}


def _tensorflow_share(path: Path, intact: int) -> float | None:
    for python in sorted(TENSORFLOW.glob("tensorflow-*/bin/python")):
        command = [str(python), "-c", COUNT_WITH_TENSORFLOW, str(path)]
        quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, env=quiet, check=False)
        if done.returncode == 0:
            return int(done.stdout) / intact
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and show; the exit status is 1 where a format with checksums missed a record or raised a false alarm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of tables")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--repetitions", type=int, default=9)
    given = parser.parse_args(arguments)
    values = np.random.default_rng(0).integers(0, 256, (given.records, VALUES), np.uint8)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ganglion-corruption-") as name:
        folder = Path(name)
        for write in FORMATS:
            written = write(folder, values)
            times = overhead(written, given.repetitions) if written.unverified else {}
            rows.append(detection(written) | times | {"checksums": bool(times)})
            written.path.unlink()
        rows.append(own_shards(folder, values, given.repetitions) | {"checksums": True})
        recovered = recovery(folder, values)
    context = environment(("pyarrow", "numpy", "google-crc32c")) | {"records": given.records}
    if given.json:
        document = {"benchmark": "corruption", "environment": context, "rows": rows, "recovery": recovered}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
    else:
        _print(rows, recovered, context)
    sound = [row for row in rows if row["checksums"]]
    return 0 if all(row.get("share") == 1 and not row["false alarms"] for row in sound) else 1


def _print(rows: list[dict[str, Any]], recovered: dict[str, float | None], context: dict[str, Any]) -> None:
    headings = ("flipped", "found", "share", "with them", "delivered changed", "false alarms", "seconds")
    headings += ("overhead", "of processors", "of preparing")
    table = Table("format", title="One flipped bit in each hundredth record")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        shown = {name: "" if row.get(name) is None else str(row[name]) for name in headings}
        for name, form in (
            ("share", "{:.1%}"),
            ("seconds", "{:.3f}"),
            ("overhead", "{:+.1%}"),
            ("of processors", "{:+.1%}"),
            ("of preparing", "{:+.1%}"),
        ):
            shown[name] = form.format(row[name]) if row.get(name) is not None else ""
        table.add_row(row["format"], *shown.values())
    console = Console(width=max(Console().width, 120))
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    console.print(table)
    for row in rows:
        if "error" in row:
            console.print(f"{row['format']} could not be read: {row['error']}")
        if "seconds to verify" in row:
            seconds = row["seconds to verify"]
            console.print(
                f"{row['format']}: flipped are blocks; all were verified in {seconds:.3f} s, apart from reading"
            )
    for name, share in recovered.items():
        text = "not installed" if share is None else f"{share:.3%} of the intact records read"
        console.print(f"TFRecord with a broken length after a hundredth of the records, {name}: {text}")


if __name__ == "__main__":
    raise SystemExit(main())
