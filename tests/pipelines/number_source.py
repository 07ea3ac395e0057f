"""A pipeline that ingests numbers, some of them bad, from several units; found by this module's name."""

from collections.abc import Iterator, Sequence

import numpy as np

from ganglion import pipeline
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Field, Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource
from ganglion.pipelines import TrainingData, ingest


class NumberSource(PlainSource, frozen=True, tag="number_source:NumberSource"):
    """Units of 100 numbers each; numbers that `bad` divides are bad, but for 0."""

    size: int = 4
    bad: int = 0

    @property
    def schema(self) -> Schema:
        return (Field("x", "int64"),)

    def units(self) -> Sequence[Unit]:
        return tuple(Unit(number=number, name=f"unit {number}") for number in range(self.size))

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        good = []
        for number in range(100):
            value = 100 * unit.number + number
            if self.bad and value and value % self.bad == 0:
                set_aside(BadRecord.at(unit, number, "divisible"))
            else:
                good.append(number)
        yield Batch({"x": np.array(good) + 100 * unit.number}, unit.ids(0, 100)[good])

    def fingerprint(self) -> str:
        return digest_of(f"{self.size} {self.bad}".encode())


@pipeline
def numbers(size: int = 4, bad: int = 0, max_bad: float = 0.1, workers: int = 1) -> TrainingData:
    """Ingest, and nothing else."""
    return ingest(NumberSource(size=size, bad=bad), held_out=0.25, max_bad=max_bad, workers=workers)
