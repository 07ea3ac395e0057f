"""From record numbers to batches: gathered, transformed, and accounted for."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ganglion.data.dataset.arrow_layout import IDS
from ganglion.data.dataset.buffers import Memory, aligned, lay_out, size_of
from ganglion.data.dataset.gather import Gather, Rewrite
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.dataset.record_reader import StoredFile
from ganglion.data.loading.certificate import Certificate
from ganglion.data.order import Positions
from ganglion.data.records.bad_record import PAYLOAD, BadRecord
from ganglion.data.records.batch import Batch, Ids
from ganglion.data.records.columns import Column, Columns
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema
from ganglion.data.transform import Transform
from ganglion.data.transforms.chain import Chain, Failure
from ganglion.data.transforms.elementwise import Elementwise


@dataclass(frozen=True)
class Work:
    """Consecutive batches to be made.

    Attributes:
        epoch: that they belong to.
        first: step of the first of them.
        records: of the dataset, all batches one after the other.
        ids: of the records.
        ends: where each batch ends in `records`.
        certificates: of each batch.
    """

    epoch: int
    first: int
    records: Positions
    ids: Ids
    ends: tuple[int, ...]
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True)
class Made:
    """Consecutive batches.

    Attributes:
        batch: the records of all of them, one batch after the other, without those that were left out.
        ends: where each batch ends in `batch`.
        slots: place of each record among those that were to be made; `None` where none was left out.
        failures: records that a transform failed on.
    """

    batch: Batch
    ends: tuple[int, ...]
    slots: npt.NDArray[np.intp] | None = None
    failures: tuple[Failure, ...] = ()

    def accounts(self, work: Work) -> tuple[Sequence[Certificate], Sequence[Certificate]]:
        """Certificates of what each batch has, and of what was left out of each; none of these where nothing was."""
        if self.slots is None:
            return work.certificates, ()
        missing = np.delete(work.ids, self.slots)
        ends = [before - after for before, after in zip(work.ends, self.ends, strict=True)]
        left_out = Certificate.of_each(missing, ends)
        return [given - left for given, left in zip(work.certificates, left_out, strict=True)], left_out

    def bad_records(self, work: Work, dataset: str) -> dict[int, list[BadRecord]]:
        """The failures in each batch that has some, by the batch's number among these, in the order of the records.

        Args:
            work: that was done.
            dataset: digest of the dataset.
        """
        if not self.failures:
            return {}
        slots = _slots(work.ids, np.array([failure.id for failure in self.failures]))
        found: dict[int, list[BadRecord]] = {}
        for slot, failure in sorted(zip(slots.tolist(), self.failures, strict=True), key=itemgetter(0)):
            record = BadRecord(
                id=failure.id,
                source=f"dataset {dataset}",
                stage=failure.stage,
                reason=failure.reason,
                digest=hashlib.sha256(failure.payload).hexdigest(),
                payload=failure.payload[:PAYLOAD],
            )
            found.setdefault(bisect_right(work.ends, slot), []).append(record)
        return found


class Memories(Protocol):
    """Where the memory of batches comes from, such as a `BufferPool`."""

    def take(self, size: int) -> Memory:
        """Aligned memory of `size` bytes."""
        ...


class BatchMaker:
    """Makes batches of a dataset.

    Elementwise transforms at the beginning are done while records are gathered. It may be used by several threads.

    Attributes:
        schema: fields of the batches.
        record_bytes: bytes that one record takes while its batch is made, and after, about.

    Args:
        dataset: where the records are.
        transforms: what is done to them, in order.
        seed: of random transforms.
        resident: bytes of the dataset's files that may stay in this process's memory; all if `None`.

    Raises:
        DataError: a transform does not go with the fields that it will be given.
    """

    def __init__(
        self, dataset: PreparedDataset, transforms: Sequence[Transform], seed: int, *, resident: int | None = None
    ) -> None:
        names = [*(field.name for field in dataset.schema), IDS]
        self._gather = Gather(
            [{**segment.columns, IDS: segment.ids} for segment in dataset.segments],
            files=[
                StoredFile(
                    segment.path,
                    {name: tuple(buffer.offset for buffer in segment.segment.columns[name]) for name in names},
                )
                for segment in dataset.segments
            ],
            resident=resident,
        )
        fused = _fusible(transforms)
        self._rewrite: dict[str, Rewrite] = {transform.column: transform.write for transform in fused}
        given: Schema = dataset.schema
        for transform in fused:
            given = transform.schema(given)
        self._gathered = given
        self._fixed = tuple(field for field in given if field.fixed)
        self._chain = Chain(transforms[len(fused) :], given)
        self._seed = seed
        self.schema = self._chain.schema
        stored = sum(segment.segment.size for segment in dataset.segments) // max(1, dataset.count)
        self.record_bytes = max(stored if len(self._fixed) < len(given) else 0, _bytes(given))
        if self.may_leave_out:
            self.record_bytes += 2 * _bytes(self.schema)

    @property
    def may_leave_out(self) -> bool:
        """Whether records may be missing from batches, because a transform leaves them out or fails on them."""
        return bool(self._chain.transforms)

    def ids(self, records: Positions) -> Ids:
        """Ids of records of the dataset."""
        found = np.empty(records.size, np.int64)
        self._gather.into(records, {IDS: found})
        return found

    def make(self, work: Work, memory: Memories | None = None) -> Made:
        """Make some batches.

        Args:
            work: which.
            memory: where their memory comes from, as far as no transform makes its own; new memory if `None`.

        Raises:
            DataError: a transform does what it may not do to records that are loaded.
            OutageError: something that a transform needs is away.
        """
        size = size_of(self._fixed, work.records.size)
        columns: Columns = {}
        fixed = lay_out(memory.take(size) if memory else aligned(size), self._fixed, work.records.size)
        self._gather.into(work.records, fixed, self._rewrite)
        others = [field.name for field in self._gathered if not field.fixed]
        arrow = self._gather.take(work.records, others) if others else {}
        for field in self._gathered:
            columns[field.name] = fixed[field.name] if field.fixed else arrow[field.name]
        batch = Batch(columns, work.ids)
        if not self.may_leave_out:
            return Made(batch, work.ends)
        batch, failures = self._chain.apply(batch, Draw(self._seed, work.epoch))
        if len(batch) == len(work.ids):
            return Made(batch, work.ends, None, tuple(failures))
        slots = _slots(work.ids, batch.ids)
        ends = tuple(np.searchsorted(slots, work.ends).tolist())
        return Made(batch, ends, slots, tuple(failures))


def with_empty_slots(columns: Columns, slots: npt.NDArray[np.intp] | None, count: int, mask: str) -> Columns:
    """Columns of `count` records, where those that were left out have zeros or nothing.

    Args:
        columns: of the records that are there.
        slots: their places; `None` where they are all there.
        count: of all places.
        mask: name of one more column, which says which places have a record.
    """
    there = np.ones(count, np.bool_) if slots is None else np.zeros(count, np.bool_)
    if slots is None:
        return {**columns, mask: there}
    there[slots] = True
    return {**{name: _spread(column, slots, there) for name, column in columns.items()}, mask: there}


def _spread(column: Column, slots: npt.NDArray[np.intp], there: npt.NDArray[np.bool_]) -> Column:
    if isinstance(column, np.ndarray):
        full = np.zeros((len(there), *column.shape[1:]), column.dtype)
        full[slots] = column
        return full
    import pyarrow as pa

    places = np.full(len(there), len(column))
    places[slots] = np.arange(len(column))
    nothing = Field.of("", column)
    empty = pa.array([[] if nothing.sequence else "" if nothing.dtype == "text" else b""], column.type)
    return pa.concat_arrays([column, empty]).take(pa.array(places))


def _fusible(transforms: Sequence[Transform]) -> list[Elementwise]:
    """The transforms at the beginning that can be done while gathering: elementwise, of different columns."""
    found: dict[str, Elementwise] = {}
    for transform in transforms:
        if not isinstance(transform, Elementwise) or transform.column in found:
            break
        found[transform.column] = transform
    return list(found.values())


def _slots(given: Ids, left: Ids) -> npt.NDArray[np.intp]:
    """Places in `given` of the ids that are left, which are in the same order."""
    order = np.argsort(given, kind="stable")
    slots = order[np.searchsorted(given, left, sorter=order)]
    return np.asarray(slots, np.intp)


def _bytes(schema: Schema) -> int:
    return sum(field.record_bytes for field in schema)
