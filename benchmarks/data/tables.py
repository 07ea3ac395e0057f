"""Tables of 2 million rows and 20 columns: `python -m benchmarks.data.tables [--json] [--rows N] [--repetitions N]`.

From Parquet, the first epoch without preparation: everything is read and every record delivered once, shuffled, in
batches of 1,024. The floor does the same with pyarrow and NumPy alone. From CSV, everything is read. Files are taken
anew in every repetition: their digests and footers are not remembered from the one before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.harness import Case, environment, measure, show
from ganglion.data.dataset.gather import Gather
from ganglion.data.order import Order
from ganglion.data.records.bad_record import refuse
from ganglion.data.records.batch import Batch
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource
from ganglion.data.sources.csv import CsvSource
from ganglion.data.sources.parquet import ParquetSource

COLUMNS, BATCH, READERS = 20, 1024, 2
SIZE = 2**25
"""Bytes of the batches that sources are asked for."""

ROW_GROUP = 250_000


def files(folder: Path, rows: int) -> tuple[Path, Path]:
    """The table as Parquet, with checksums, and as CSV; made unless they are there."""
    values = np.random.default_rng(0)
    parquet, text = folder / f"table-{rows}.parquet", folder / f"table-{rows}.csv"
    if not (parquet.exists() and text.exists()):
        table = pa.table({f"c{number:02d}": values.standard_normal(rows, np.float32) for number in range(COLUMNS)})
        pq.write_table(
            table, parquet, row_group_size=ROW_GROUP, compression="none", use_dictionary=False, write_page_checksum=True
        )
        pyarrow.csv.write_csv(table, text)
    return parquet, text


def read_all(source: PlainSource) -> list[Batch]:
    """All batches of a source, whose units are shared by two threads."""

    def read(unit: Unit) -> list[Batch]:
        return list(source.read_unit(unit, SIZE, refuse))

    with ThreadPoolExecutor(READERS) as executor:
        return [batch for batches in executor.map(read, source.units()) for batch in batches]


def ours(path: Path, *, verify: bool = True) -> None:
    """The first epoch: read, then gathered in the order that is a formula, into memory used again and again."""
    columns = Batch.join(read_all(ParquetSource(paths=str(path), verify=verify))).columns
    gather = Gather([columns])
    order = Order(gather.count, seed=1)
    out = {name: np.empty(BATCH, np.float32) for name in columns}
    for start in range(0, gather.count - BATCH + 1, 8 * BATCH):
        window = order.at(0, np.arange(start, min(start + 8 * BATCH, gather.count)))
        for first in range(0, len(window) - BATCH + 1, BATCH):
            gather.into(window[first : first + BATCH], out)


def floor(path: Path) -> None:
    """The same with pyarrow and NumPy."""
    table = pq.read_table(path)
    columns = [column.to_numpy() for column in table.columns]
    order = np.random.default_rng(1).permutation(len(table))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        positions = order[start : start + BATCH]
        for column in columns:
            column[positions]


def timed(path: Path, run: Callable[[], object]) -> Callable[[], float]:
    """Run with a file that looks new, and return the seconds."""

    def once() -> float:
        os.utime(path)
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return once


def cases(parquet: Path, text: Path) -> Iterator[Case]:
    """What is measured."""
    base = "Parquet: pyarrow read, NumPy gather"
    yield Case(name=base, run=timed(parquet, lambda: floor(parquet)), note="the floor")
    for name, verify in (("Parquet: ours", True), ("Parquet: ours, checksums not compared", False)):
        run = timed(parquet, lambda verify=verify: ours(parquet, verify=verify))
        yield Case(name=name, run=run, against=base, note="target: 0.77x, which is 1.3 times the floor's time")
    base = "CSV: pyarrow"
    yield Case(name=base, run=timed(text, lambda: pyarrow.csv.read_csv(text)), note="the floor")
    run = timed(text, lambda: read_all(CsvSource(paths=str(text))))
    yield Case(name="CSV: ours", run=run, against=base, note="target: 0.83x, which is 1.2 times pyarrow's time")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of a table")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ganglion-benchmarks")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    parquet, text = files(given.folder, given.rows)
    measured = measure(list(cases(parquet, text)), given.repetitions)
    context = environment(("pyarrow", "numpy")) | {"rows": given.rows, "columns": COLUMNS}
    show("First epoch of a table", measured, context, as_json=given.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
