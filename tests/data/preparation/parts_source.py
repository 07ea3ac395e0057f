"""A source of small text files, one unit each, that writes down which it reads; found by this module's name."""

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns
from ganglion.data.records.schema import Field, Schema, records_within
from ganglion.data.records.unit import RECORDS, Unit
from ganglion.data.source import PlainSource
from ganglion.data.transform import Transform


class PartsSource(PlainSource, frozen=True, tag="parts_source:PartsSource"):
    """Lines `number` or `!number` of the files `*.part` of a folder; the latter are bad unless `mended`.

    A record is `x` (the number), `pair` (number and its negative) and `name` (the number in words of digits).
    """

    folder: str
    log: str = ""
    mended: bool = False

    @property
    def schema(self) -> Schema:
        return (Field("x", "int64"), Field("pair", "float32", (2,)), Field("name", "text"))

    def units(self) -> Sequence[Unit]:
        return tuple(
            Unit(
                number=number,
                name=path.name,
                path=str(path),
                stop=path.stat().st_size,
                size=20 * path.read_bytes().count(b"\n"),
                fingerprint=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for number, path in enumerate(sorted(Path(self.folder).glob("*.part")))
        )

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        if self.log:
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{unit.name}\n".encode())
            os.close(descriptor)
        numbers: list[int] = []
        ids: list[int] = []
        offset = 0
        for place, line in enumerate(Path(unit.path).read_bytes().splitlines(keepends=True)):
            if line.startswith(b"!") and not self.mended:
                set_aside(
                    BadRecord.at(unit, place, f"{line[1:].decode().strip()} is no number", offset=offset, payload=line)
                )
            else:
                numbers.append(int(line.lstrip(b"!")))
                ids.append(unit.id(place))
            offset += len(line)
            if len(ids) >= records_within(self.schema, size):
                yield batch_of(numbers, ids)
                numbers, ids = [], []
        if ids:
            yield batch_of(numbers, ids)

    def fingerprint(self) -> str:
        material = "".join(f"{unit.path} {unit.fingerprint}" for unit in self.units())
        return "sha256:" + hashlib.sha256(f"{material} {self.mended}".encode()).hexdigest()


def batch_of(numbers: Sequence[int], ids: Sequence[int]) -> Batch:
    x = np.array(numbers, np.int64)
    pair = np.stack([x, -x], axis=1).astype(np.float32)
    return Batch({"x": x, "pair": pair, "name": pa.array([f"n{number}" for number in numbers])}, np.array(ids))


def write_part(folder: Path, number: int, lines: Sequence[int | str]) -> Path:
    """Write file `number`; a line may be text such as `!5`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:03d}.part"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


class DeadlySource(PartsSource, frozen=True, tag="parts_source:DeadlySource"):
    """Kills the process that reads a certain file, once."""

    deadly: str = ""

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        marker = Path(self.log + ".died")
        if unit.name == self.deadly and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_unit(unit, size, set_aside)


class PairUp(Transform, frozen=True, tag="parts_source:PairUp"):
    """Makes one record of two: their sum."""

    @property
    def keeps_records(self) -> bool:
        return False

    def schema(self, given: Schema) -> Schema:
        return (Field("sum", "int64"),)

    def combiner(self, given: Schema) -> "Pairs":
        return Pairs()


class Pairs:
    """At work for one unit."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.made = 0
        self.unit = 0

    def add(self, batch: Batch) -> Batch:
        self.unit = int(batch.ids[0]) // RECORDS
        self.waiting += batch.columns["x"].tolist()
        return self._give(len(self.waiting) // 2)

    def finish(self) -> Batch:
        return self._give(-(-len(self.waiting) // 2))

    def _give(self, pairs: int) -> Batch:
        taken, self.waiting = self.waiting[: 2 * pairs], self.waiting[2 * pairs :]
        sums = [sum(taken[place : place + 2]) for place in range(0, len(taken), 2)]
        ids = np.arange(self.made, self.made + len(sums), dtype=np.int64) + self.unit * RECORDS
        self.made += len(sums)
        return Batch({"sum": np.array(sums, np.int64)}, ids)


def is_odd(columns: Columns) -> npt.NDArray[np.bool_]:
    """Keep odd numbers; 33 cannot be judged."""
    if 33 in columns["x"]:
        raise ValueError("33 is neither")
    return columns["x"] % 2 == 1


def is_odd_mended(columns: Columns) -> npt.NDArray[np.bool_]:
    """Keep odd numbers."""
    return columns["x"] % 2 == 1
