"""What reading text takes: a block and what it becomes, however large the file is, and no library beside Arrow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET = 64 * 2**20
LIMIT = BUDGET * 11 // 10
SIZE = BUDGET // 16  # of a batch

COUNT = """
import sys, threading
from pathlib import Path
import pyarrow.compute, pyarrow.csv, pyarrow.json
from ganglion.data import CsvSource, JsonLinesSource
from ganglion.data.records.bad_record import refuse

def taken():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

path, size = sys.argv[1], int(sys.argv[2])
source = (CsvSource if path.endswith("csv") else JsonLinesSource)(paths=path)
before = largest = taken()
ended = threading.Event()

def watch():
    global largest
    while not ended.wait(0.004):
        largest = max(largest, taken())

watching = threading.Thread(target=watch)
watching.start()
records = sum(len(batch) for unit in source.units() for batch in source.read_unit(unit, size, refuse))
ended.set()
watching.join()
print(records, max(largest, taken()) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="proportional set size is read from /proc")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_reading_text_takes_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    rows = [[number * 20 + place + 0.125 for place in range(20)] for number in range(1000)]
    if kind == "csv":
        lines = "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
        head = ",".join(f"c{place}" for place in range(20)).encode() + b"\n"
    else:
        head, lines = b"", "".join(json.dumps({f"c{k}": v for k, v in enumerate(row)}) + "\n" for row in rows).encode()
    times = 48 * 2**20 // len(lines)
    path = tmp_path / f"numbers.{kind}"
    path.write_bytes(head + lines * times)
    command = [sys.executable, "-c", COUNT, str(path), str(SIZE)]
    records, grown = map(int, subprocess.run(command, check=True, capture_output=True).stdout.split())
    assert records == 1000 * times
    assert grown <= LIMIT, f"{grown / 2**20:.0f} MiB"


NUMBERS = """
import sys
import pyarrow.csv
from ganglion.data import CsvSource
from ganglion.data.records.bad_record import refuse

source = CsvSource(paths=sys.argv[1])
(batch,) = [batch for unit in source.units() for batch in source.read_unit(unit, 2**20, refuse)]
print(batch.columns["a"].tolist() + batch.columns["b"].tolist(), "pandas" in sys.modules)
"""


def test_reading_numbers_does_not_import_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "a.csv").write_text("a,b\n1,2.5\n3,4.5\n")
    command = [sys.executable, "-c", NUMBERS, str(tmp_path / "a.csv")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[1, 3, 2.5, 4.5] False\n"
