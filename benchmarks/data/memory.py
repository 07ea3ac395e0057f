"""The memory law, and what it costs: `python -m benchmarks.data.memory [--json] [--full] [--folder FOLDER]`.

Sources are read under budgets of 64 to 512 MiB, each in a fresh process, beside `pyarrow.dataset`'s `to_batches` with
batches of the same size: a Parquet file with one row group, CSV, JSON lines, and a folder of images of mixed size. What
counts is the growth of the proportional set size over what the process has once everything is imported; it may be at
most the budget and a tenth. `--full` takes a file of 2 GiB and 200,000 images, in place of 512 MiB and 4,000.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment

MIB = 2**20
BUDGETS = (64, 128, 256, 512)
SHARE = 16
"""A batch takes this part of the budget; beside it lie the one before, and of each column a page and a buffer."""

COLUMNS = 20
SLACK = 1.1
INTERVAL = 0.004


def parquet_file(folder: Path, mebibytes: int) -> Path:
    """A file of 20 columns of 32-bit floats in one row group, with checksums, made unless it is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"one-row-group-{mebibytes}.parquet"
    if not path.exists():
        rows = mebibytes * MIB // (4 * COLUMNS)
        values = np.random.default_rng(0)
        table = pa.table({f"c{number:02d}": values.standard_normal(rows, np.float32) for number in range(COLUMNS)})
        beside = path.with_suffix(".part")
        pq.write_table(
            table, beside, row_group_size=rows, compression="none", use_dictionary=False, write_page_checksum=True
        )
        beside.rename(path)
    return path


def text_file(folder: Path, mebibytes: int, ending: str) -> Path:
    """A table of 20 columns of numbers as `csv`, or as objects in `jsonl`; made unless it is there."""
    path = folder / f"numbers-{mebibytes}.{ending}"
    if not path.exists():
        names = [f"c{number:02d}" for number in range(COLUMNS)]
        rows = np.random.default_rng(0).standard_normal((4096, COLUMNS)).round(6).tolist()
        if ending == "csv":
            lines = "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
        else:
            lines = b"".join(msgspec.json.encode(dict(zip(names, row, strict=True))) + b"\n" for row in rows)
        beside = path.with_suffix(".part")
        with beside.open("wb") as file:
            file.write(",".join(names).encode() + b"\n" if ending == "csv" else b"")
            for _ in range(mebibytes * MIB // len(lines)):
                file.write(lines)
        beside.rename(path)
    return path


def image_folder(folder: Path, images: int) -> Path:
    """A folder of PNG and JPEG files of 16 to 256 pixels a side, made unless it is there."""
    from PIL import Image

    root = folder / f"images-{images}"
    if not root.exists():
        beside = root.with_suffix(".part")
        source = random.Random(0)
        noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
        for number in range(images):
            height, width, top = source.randint(16, 256), source.randint(16, 256), source.randint(0, 255)
            file = io.BytesIO()
            image = Image.fromarray(noise[top : top + height, top : top + width])
            image.save(file, "JPEG" if number % 4 else "PNG")
            path = beside / f"class-{number % 10}" / f"{number:06d}.{'jpg' if number % 4 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.getvalue())
        beside.rename(root)
    return root


class Watch:
    """The highest proportional set size of this process while it is entered, beyond what it was before."""

    def __enter__(self) -> Watch:
        self._before = self._peak = _proportional_set_size()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._peak = max(self._peak, _proportional_set_size())
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes."""
        return self._peak - self._before

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._peak = max(self._peak, _proportional_set_size())


def _proportional_set_size() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def read(reader: str, path: str, size: int) -> dict[str, Any]:
    """Read everything once in this process, batches of about `size` bytes, and say what that took."""
    batches: Iterable[Any]
    if reader == "Dataset.to_batches":
        import pyarrow.dataset

        rows = size // (4 * COLUMNS)
        batches = pyarrow.dataset.dataset(path).to_batches(batch_size=rows)
    else:
        from ganglion.data.records.bad_record import refuse
        from ganglion.data.source import PlainSource
        from ganglion.data.sources.csv import CsvSource
        from ganglion.data.sources.images import ImageFolderSource
        from ganglion.data.sources.json_lines import JsonLinesSource
        from ganglion.data.sources.parquet import ParquetSource

        sources: dict[str, Callable[[], PlainSource]] = {
            "parquet": lambda: ParquetSource(paths=path),
            "CSV": lambda: CsvSource(paths=path),
            "JSON lines": lambda: JsonLinesSource(paths=path),
            "images": lambda: ImageFolderSource(paths=path, size=(64, 64)),
        }
        source = sources[reader]()
        units = source.units()
        batches = (batch for unit in units for batch in source.read_unit(unit, size, refuse))
        del units
    records = taken = 0
    with Watch() as watch:
        started = time.perf_counter()
        for batch in batches:
            records += len(batch)
            taken += batch.nbytes
        seconds = time.perf_counter() - started
    return {"records": records, "bytes": taken, "seconds": seconds, "growth": watch.growth}


def in_fresh_process(reader: str, path: Path, size: int) -> dict[str, Any]:
    """`read`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data.memory", "--read", reader, str(path), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return msgspec.json.decode(done.stdout, type=dict[str, Any])


def rows(folder: Path, *, full: bool) -> list[dict[str, Any]]:
    """All measurements, one after the other."""
    parquet = parquet_file(folder, 2048 if full else 512)
    images = image_folder(folder, 200_000 if full else 4_000)
    texts = [(name, text_file(folder, 256, ending)) for name, ending in (("CSV", "csv"), ("JSON lines", "jsonl"))]
    kinds = (("parquet", parquet), *texts, ("images", images))
    found = []
    for budget in BUDGETS:
        size = budget * MIB // SHARE
        for reader, path in (*kinds, ("Dataset.to_batches", parquet)):
            row = in_fresh_process(reader, path, size)
            ours = reader != "Dataset.to_batches"
            held = row["growth"] <= SLACK * budget * MIB
            found.append({"reader": reader, "budget": budget * MIB, "held": held, "ours": ours} | row)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and show; the exit status is 1 where the law did not hold for ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of a table")
    parser.add_argument("--full", action="store_true", help="2 GiB and 200,000 images")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ganglion-benchmarks")
    parser.add_argument("--read", nargs=3, metavar=("READER", "PATH", "SIZE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.read:
        reader, path, size = given.read
        sys.stdout.buffer.write(msgspec.json.encode(read(reader, path, int(size))))
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    found = rows(given.folder, full=given.full)
    context = environment(("pyarrow", "numpy", "pillow"))
    if given.json:
        document = {"benchmark": "memory law", "environment": context, "rows": found}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
    else:
        table = Table("read by", title="Memory law: growth of the proportional set size within the budget and a tenth")
        for heading in ("budget", "growth", "of the budget", "records/s", "MiB/s"):
            table.add_column(heading, justify="right")
        table.add_column("law")
        for row in found:
            table.add_row(
                row["reader"],
                f"{row['budget'] // MIB} MiB",
                f"{row['growth'] / MIB:.0f} MiB",
                f"{row['growth'] / row['budget']:.0%}",
                f"{row['records'] / row['seconds']:,.0f}",
                f"{row['bytes'] / MIB / row['seconds']:,.0f}",
                "held" if row["held"] else "broken",
            )
        console = Console(width=max(Console().width, 120))
        console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
        console.print(table)
    return 0 if all(row["held"] for row in found if row["ours"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
