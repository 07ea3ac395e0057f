from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns, part, records_of
from ganglion.data.records.fingerprint import fingerprint_columns
from ganglion.data.records.schema import Field, Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource
from ganglion.data.sources.transformed import TransformedSource
from ganglion.data.transform import Transform


class Pieces(PlainSource, frozen=True, eq=False):
    """Columns in memory, cut into units at `borders`; records in `unreadable` are set aside as they are read."""

    columns: Any
    borders: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()

    @property
    def schema(self) -> Schema:
        return tuple(Field.of(name, column) for name, column in self.columns.items())

    def units(self) -> Sequence[Unit]:
        ends = (*self.borders, records_of(self.columns))
        return [
            Unit(number=number, name=f"piece {number}", start=start, stop=stop, records=stop - start, fingerprint="f")
            for number, (start, stop) in enumerate(zip((0, *self.borders), ends, strict=True))
        ]

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        ids = unit.ids(0, unit.stop - unit.start)
        whole = Batch(part(self.columns, unit.start, unit.stop), ids)
        good = np.array([n for n in range(len(whole)) if unit.start + n not in self.unreadable], np.int64)
        for number in sorted(set(range(len(whole))) - set(good.tolist())):
            set_aside(BadRecord.at(unit, number, "unreadable"))
        if len(good):
            yield from whole.take(good).pieces(size)

    def fingerprint(self) -> str:
        return fingerprint_columns(b"", list(self.columns), [self.columns])


class Outcome:
    """All that reading a source gives."""

    def __init__(self, source: PlainSource, size: int) -> None:
        self.bad: list[BadRecord] = []
        self.batches = [batch for unit in source.units() for batch in source.read_unit(unit, size, self.bad.append)]
        self.schema = source.schema
        self.ids = [record for batch in self.batches for record in batch.ids.tolist()]

    def __getitem__(self, name: str) -> Any:
        """The values of a column, as nested lists."""
        return [value for batch in self.batches for value in batch.columns[name].tolist()]

    def array(self, name: str) -> np.ndarray:
        return np.concatenate([batch.columns[name] for batch in self.batches])

    def digest(self) -> Any:
        """What must not depend on the size of batches."""
        for batch in self.batches:
            assert tuple(Field.of(name, column) for name, column in batch.columns.items()) == self.schema
            assert len(batch) > 0
        columns = [batch.columns for batch in self.batches]
        found = fingerprint_columns(b"", [field.name for field in self.schema], columns) if columns else ""
        return found, self.ids, sorted(self.bad, key=lambda bad: (bad.id, bad.stage))


SIZES = (1, 700, 5_000, 2**23)


@pytest.fixture
def run() -> Callable[..., Outcome]:
    """Apply transforms to columns cut into units, with batches of every size, and see that it makes no difference."""

    def run(
        columns: Mapping[str, Any], *transforms: Transform, borders: tuple[int, ...] = (), **options: Any
    ) -> Outcome:
        unreadable = options.pop("unreadable", ())
        source = TransformedSource(
            source=Pieces(dict(columns), borders, unreadable), transforms=transforms, seed=options.pop("seed", 0)
        )
        outcomes = [Outcome(source, size) for size in SIZES]
        for outcome in outcomes:
            assert outcome.digest() == outcomes[-1].digest()
        return outcomes[-1]

    return run


@pytest.fixture
def pieces() -> Callable[[Columns], Pieces]:
    return Pieces


@pytest.fixture
def outcome() -> type[Outcome]:
    return Outcome
