"""The first records of a source, for trying a pipeline on a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Self

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit, inner_unit
from ganglion.data.source import PlainSource, source_from

_COUNTING = 2**20


class LimitedSource(PlainSource, frozen=True, tag="ganglion.data.sources.limited:LimitedSource"):
    """The first records of another source; they keep their ids.

    Where the units of the other source do not say how many records they have, the first are read to count them.

    Attributes:
        source: the other source, or its plain data.
        most: how many records to keep; a source that has fewer is kept whole.

    Raises:
        DataError: `most` is less than 1.
    """

    source: Any
    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise DataError(f"A source was limited to {self.most} records; at least 1 is needed.")
        msgspec.structs.force_setattr(self, "source", source_from(self.source))

    @property
    def schema(self) -> Schema:
        """The fields of the other source."""
        return self._inner.schema

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """The first records of a snapshot of the other source."""
        with self._inner.snapshot() as source:
            yield msgspec.structs.replace(self, source=source)

    def units(self) -> Sequence[Unit]:
        """The first units of the other source; of the last, maybe, only the first records."""
        found: list[Unit] = []
        left = self.most
        for unit in self._inner.units():
            if not left:
                break
            records = min(left, self._count(unit, left) if unit.records is None else unit.records)
            found.append(msgspec.structs.replace(unit, records=records, inner=unit))
            left -= records
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, up to as many as are wanted of it."""
        left = unit.records or 0
        if not left:
            return
        waiting: list[BadRecord] = []  # those behind the last record that is wanted are nobody's concern
        last = -1
        with closing(_generator(self._inner.read_unit(inner_unit(unit), size, waiting.append))) as batches:
            for batch in batches:
                wanted = batch.part(0, min(left, len(batch)))
                last = max(last, int(wanted.ids.max()))
                for record in waiting:
                    if record.id < last:
                        set_aside(record)
                waiting[:] = [record for record in waiting if record.id >= last]
                yield wanted
                left -= len(wanted)
                if not left:
                    return
        for record in waiting:
            set_aside(record)

    def fingerprint(self) -> str:
        """Digest of the other source and the limit."""
        return digest_of(f"first {self.most} of {self._inner.fingerprint()}".encode())

    def _count(self, unit: Unit, most: int) -> int:
        """How many records a unit has, counted up to `most`."""
        count = 0
        with closing(_generator(self._inner.read_unit(unit, _COUNTING, _pass_over))) as batches:
            for batch in batches:
                count += len(batch)
                if count >= most:
                    break
        return count

    @property
    def _inner(self) -> PlainSource:
        inner: PlainSource = self.source
        return inner


def limit(source: PlainSource, most: int | None) -> PlainSource:
    """`source`, cut to its first `most` records; `None` keeps it as it is."""
    return source if most is None else LimitedSource(source=source, most=most)


def _pass_over(record: BadRecord) -> None:
    """Bad records are told when the unit is read."""


def _generator(batches: Iterator[Batch]) -> Any:
    """Batches that can be closed, with all that reading them holds open."""
    return (batch for batch in batches)
