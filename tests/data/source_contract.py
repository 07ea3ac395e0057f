"""What every source promises, as checks that each one's tests run on a case of theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ganglion.data import source_data, source_from
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.records.schema import Field
from ganglion.data.records.unit import RECORDS, Unit
from ganglion.data.source import PlainSource

SIZES = (1, 100, 3_000, 2**20)


@dataclass
class Case:
    """A source, and what is known of it.

    Attributes:
        source: the source.
        count: its good records.
        bad: records that it sets aside.
        change: changes one byte of the content, from one record to another that is good.
        others: the same data with other options, each of which reads other records.
    """

    source: PlainSource
    count: int
    bad: int = 0
    change: Callable[[], None] | None = None
    others: list[PlainSource] = field(default_factory=list)


def values(column: Any) -> list[Any]:
    """The values of a column, comparable with ==, NaN too."""
    return [repr(value) for value in (column.tolist() if isinstance(column, np.ndarray) else column.to_pylist())]


def read_unit(source: Any, unit: Unit, size: int = 2**20) -> tuple[dict[int, tuple[str, ...]], dict[int, BadRecord]]:
    """Records and bad records of a unit by id, in the order in which they came."""
    records: dict[int, tuple[str, ...]] = {}
    bad: list[BadRecord] = []
    for batch in source.read_unit(unit, size, bad.append):
        assert len(batch) > 0
        assert batch.ids.dtype == np.int64
        assert tuple(Field.of(name, column) for name, column in batch.columns.items()) == source.schema
        rows = list(zip(*(values(column) for column in batch.columns.values()), strict=True))
        assert len(rows) == len(batch)
        assert not set(batch.ids.tolist()) & set(records), "an id came twice"
        records.update(zip(batch.ids.tolist(), rows, strict=True))
    assert len({record.id for record in bad}) == len(bad), "two bad records have one id"
    assert not {record.id for record in bad} & set(records), "a bad record has the id of a good one"
    return records, {record.id: record for record in bad}


def read_all(source: Any, size: int = 2**20) -> tuple[dict[int, tuple[str, ...]], dict[int, BadRecord]]:
    """Records and bad records of a source by id, in order."""
    records: dict[int, tuple[str, ...]] = {}
    bad: dict[int, BadRecord] = {}
    for unit in source.units():
        found, aside = read_unit(source, unit, size)
        assert not (found.keys() | aside.keys()) & (records.keys() | bad.keys()), "two units share an id"
        records |= found
        bad |= aside
    return records, bad


def check_contract(case: Case) -> None:
    """Check all that a source promises."""
    source = case.source
    units = source.units()
    assert [unit.number for unit in units] == list(range(len(units)))
    records, bad = read_all(source)
    descriptors = _descriptors()  # after the libraries have started what they keep
    assert (len(records), len(bad)) == (case.count, case.bad)
    _check_sizes(source, records, bad)
    _check_units_alone(source, units, records, bad)
    _check_plain_data(source, records)
    for unit in units:
        of_it = sum(id // RECORDS == unit.number for id in records)
        assert unit.records in (None, of_it)
    _check_partial_reading(source, units)
    _check_fingerprint(case)
    assert _descriptors() <= descriptors, "reading left something open"  # fewer, where older garbage was collected


def _check_sizes(source: PlainSource, records: dict[int, Any], bad: dict[int, BadRecord]) -> None:
    for size in SIZES:
        found, aside = read_all(source, size)
        assert list(found.items()) == list(records.items()), f"other records, or another order, with {size} bytes"
        assert aside == bad, f"other bad records with {size} bytes"


def _check_units_alone(source: Any, units: Any, records: dict[int, Any], bad: dict[int, BadRecord]) -> None:
    for unit in reversed(units):
        found, aside = read_unit(source_from(_travelled(source)), unit)
        assert found.items() <= records.items()
        assert aside.items() <= bad.items()


def _check_plain_data(source: PlainSource, records: dict[int, Any]) -> None:
    rebuilt = source_from(_travelled(source))
    assert type(rebuilt) is type(source)
    assert rebuilt.schema == source.schema
    assert rebuilt.fingerprint() == source.fingerprint()
    assert read_all(rebuilt)[0] == records


def _check_partial_reading(source: PlainSource, units: Any) -> None:
    """Somebody takes the first batch only, and closes the rest."""
    for unit in units:
        reading = source.read_unit(unit, 1, lambda record: None)
        next(reading, None)
        reading.close()  # type: ignore[attr-defined]  # all of them are generators


def _check_fingerprint(case: Case) -> None:
    fingerprint = case.source.fingerprint()
    assert case.source.fingerprint() == fingerprint
    for other in case.others:
        assert other.fingerprint() != fingerprint, f"{other} has the fingerprint of {case.source}"
    if case.change is not None:
        before = [unit.fingerprint for unit in case.source.units()]
        old = read_all(case.source)[0]
        case.change()
        assert case.source.fingerprint() != fingerprint, "a change of a byte was not seen"
        assert [unit.fingerprint for unit in case.source.units()] != before or not any(before)
        assert read_all(case.source)[0] != old


def _travelled(source: PlainSource) -> Any:
    data = source_data(source)
    try:
        return json.loads(json.dumps(data))
    except TypeError:  # arrays in memory are bytes, which JSON does not have
        return msgspec.msgpack.decode(msgspec.msgpack.encode(data))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
