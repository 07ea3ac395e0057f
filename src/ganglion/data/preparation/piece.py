"""One piece of a source read, and written to segments of the store."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data.dataset.manifest import KIND, Account
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.dataset.quarantine import QuarantineWriter, count_bad, read_quarantine
from ganglion.data.preparation.advance import Advance, Tell
from ganglion.data.preparation.plan import Piece, Plan, PlannedUnit
from ganglion.data.preparation.segment_writer import LONGEST, SegmentWriter, lengths
from ganglion.data.preparation.staging import Report, Staging
from ganglion.data.preparation.tally import Tally, makes_records, numbers_through
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Field, Schema, describe
from ganglion.data.records.unit import RECORDS, inner_unit, unit_of
from ganglion.data.source import Source
from ganglion.data.sources.transformed import TransformedSource

MEMORY = 512 * 2**20
"""Bytes that a preparation may take where nothing else is said."""

BATCH_BYTES = 8 * 2**20
"""Bytes of records that are asked for at once, at most."""


def write_piece(
    plan: Plan, piece: Piece, source: Source, store: FolderStore, *, memory: int, most_bad: int | None, tell: Tell
) -> Report:
    """Read the units of a piece, write its records, and report it.

    Args:
        plan: that it is part of.
        piece: what to read.
        source: where from.
        store: where segments go.
        memory: bytes that reading and writing may take.
        most_bad: bad records after which reading on is of no use; `None` reads to the end.
        tell: told how far it is, after every batch.

    Raises:
        DataError: the source cannot be read, or does not do what sources have to do.
        OutageError: the source is away.
    """
    staging = Staging(store, plan.origin.key)
    in_quarantine = _in_quarantine(plan, piece, store)
    accounts = []
    complete = True
    records = size = 0
    with (
        QuarantineWriter(staging.quarantine(piece.number)) as quarantine,
        SegmentWriter(plan.schema, store, segment_bytes=plan.segment_bytes, memory=memory // 2) as writer,
    ):
        for planned in piece.units:
            reading = _Reading(planned, plan, source, quarantine, most_bad, in_quarantine.get(planned.number, set()))
            try:
                for batch in reading.batches(min(BATCH_BYTES, max(1, memory // 8))):
                    writer.write(batch)
                    records, size = records + len(batch), size + batch.nbytes
                    tell(Advance(records=records, size=size, set_aside=quarantine.count))
            except _EnoughError:
                complete = False
            accounts.append(reading.account())
            if not complete:
                break
        writer.finish()
    kept = store.put_file(staging.quarantine(piece.number), KIND) if quarantine.count else None
    report = Report(
        piece=piece.number,
        segments=tuple(writer.segments),
        accounts=tuple(accounts),
        bad=count_bad(read_quarantine(store.path(kept))) if kept else (),
        quarantine=kept,
        complete=complete,
    )
    if complete:
        staging.write_report(report)
    return report


class _EnoughError(DataError):
    """There are more bad records than are tolerated."""


class _Reading:
    """One unit on its way into a dataset."""

    def __init__(
        self,
        planned: PlannedUnit,
        plan: Plan,
        source: Source,
        quarantine: QuarantineWriter,
        most_bad: int | None,
        in_quarantine: set[int],
    ) -> None:
        self._planned = planned
        self._plan = plan
        self._source = source
        self._quarantine = quarantine
        self._most_bad = most_bad
        self._wanted = in_quarantine if planned.recovers else None
        self._move = (planned.number - planned.unit.number) * RECORDS
        self._base = source.source if isinstance(source, TransformedSource) else source
        self._unit = planned.unit if self._base is source else inner_unit(planned.unit)
        self._tally = Tally(self._unit, numbers_through(self._base))
        self._written = self._set_aside = 0

    def batches(self, size: int) -> Iterator[Batch]:
        """What is to be written, with the ids that records have in the dataset."""
        for batch in self._transformed(size):
            _check(batch, self._plan.schema, self._planned)
            if len(good := self._good(batch)):
                self._written += len(good)
                yield Batch(good.columns, good.ids + self._move)
        self._tally.check_complete()
        read = self._tally.good + self._tally.bad
        if self._planned.expected is not None and read != self._planned.expected:
            raise DataError(
                f"{self._planned.unit.name} had {self._planned.expected} records and now has {read}, so that it is not "
                "known which are those in quarantine; prepare the source anew."
            )

    def _transformed(self, size: int) -> Iterator[Batch]:
        """What the source yields, with its records counted before they are transformed."""
        unit = self._planned.unit
        read = self._counted(self._base.read_unit(self._unit, size, self._bad))
        if isinstance(self._source, TransformedSource):
            return self._source.transform_unit(unit, read, size, self._keep)
        return read

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._tally.came(batch.ids)
            yield batch

    def account(self) -> Account:
        """What became of the records so far."""
        unit = self._planned.unit
        read = self._tally.good + self._tally.bad
        made = self._written if makes_records(self._source) else 0
        left_out = read + made - self._written - self._set_aside
        return Account(
            unit=self._planned.number,
            name=unit.name,
            path=unit.path,
            start=unit.start,
            stop=unit.stop,
            fingerprint=unit.fingerprint,
            generation=self._plan.generation,
            read=read,
            written=self._written,
            set_aside=self._set_aside,
            made=made,
            left_out=left_out if isinstance(self._source, TransformedSource) else 0,
        )

    def _bad(self, record: BadRecord) -> None:
        """Take a record that the source sets aside."""
        if self._tally.set_aside(record.id):
            self._keep(record)

    def _keep(self, record: BadRecord) -> None:
        number = record.id + self._move
        if self._wanted is not None and number not in self._wanted:
            return  # it was good when it was written
        self._set_aside += 1
        self._quarantine.write(msgspec.structs.replace(record, id=number))
        if self._most_bad is not None and self._quarantine.count > self._most_bad:
            raise _EnoughError("There are more bad records than are tolerated.")

    def _good(self, batch: Batch) -> Batch:
        """The records that are wanted and can be written; others are set aside."""
        problems = dict(_unwritable(batch, self._plan.schema))
        keep = np.ones(len(batch), bool)
        if self._wanted is not None:
            keep = np.array([record + self._move in self._wanted for record in batch.ids.tolist()], bool)
        for place, problem in problems.items():
            keep[place] = False
            self._keep(BadRecord.at(self._planned.unit, unit_of(int(batch.ids[place]))[1], problem, stage="write"))
        return batch if keep.all() else batch.take(np.flatnonzero(keep))


def _in_quarantine(plan: Plan, piece: Piece, store: FolderStore) -> dict[int, set[int]]:
    """Ids of the bad records of the dataset that are to be recovered, by unit."""
    found: dict[int, set[int]] = {planned.number: set() for planned in piece.units if planned.recovers}
    if found and plan.base is not None:
        for record in PreparedDataset(plan.base, store).quarantine():
            unit = unit_of(record.id)[0]
            if unit in found:
                found[unit].add(record.id)
    return found


def _check(batch: Batch, schema: Schema, planned: PlannedUnit) -> None:
    found = tuple(Field.of(name, column) for name, column in batch.columns.items())
    counts = {len(batch), *(len(column) for column in batch.columns.values())}
    if set(found) != set(schema) or len(counts) != 1:
        raise DataError(
            f"{planned.unit.name or f'Unit {planned.unit.number}'} yields {describe(found)} (records: "
            f"{sorted(counts)}); the schema of the source is {describe(schema)}."
        )


def _unwritable(batch: Batch, schema: Schema) -> Iterator[tuple[int, str]]:
    """Records with a value that is missing or too long, and what is wrong with them."""
    for field in schema:
        column = batch.columns[field.name]
        if isinstance(column, np.ndarray):
            continue
        if column.null_count:
            missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
            yield from ((int(place), f"the field {field.name!r} has no value") for place in missing)
        if column.nbytes > LONGEST:
            long = np.flatnonzero(lengths(column) > LONGEST)
            yield from ((int(place), f"the field {field.name!r} has more than {LONGEST} bytes") for place in long)
