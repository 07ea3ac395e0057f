"""Transforms one after the other, which leave aside the records that one of them fails on, and none else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np

from ganglion.core.errors import DataError, OutageError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Schema, records_within
from ganglion.data.transform import BadRecordsError, Transform, transform_from

_UNKNOWN_AT_FIRST = 64  # records, where it is not known how many bytes of result each makes
_LONGEST_REASON = 500


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a transform failed on.

    Attributes:
        id: of the record.
        stage: name of the transform.
        reason: what is wrong, for people.
        payload: the record as the transform was given it, in msgpack; arrays as `{dtype, shape, data}`.
    """

    id: int
    stage: str
    reason: str
    payload: bytes


class Chain:
    """Transforms in their order, checked against the fields of what they will be given.

    Attributes:
        transforms: the transforms.
        schema: fields of the result.
        keeps_records: whether there is one record in the result for each that is given, bad ones aside.

    Args:
        transforms: transforms or their plain data.
        given: fields of what the first is given.

    Raises:
        DataError: a transform does not go with the fields that it will be given.
    """

    def __init__(self, transforms: Iterable[Transform], given: Schema) -> None:
        self.transforms = tuple(map(transform_from, transforms))
        self._given: list[Schema] = []
        for transform in self.transforms:
            self._given.append(given)
            given = transform.schema(given)
            _check_names(given, transform)
        self.schema = given
        self.keeps_records = all(transform.keeps_records for transform in self.transforms)

    def apply(self, batch: Batch, draw: Draw) -> tuple[Batch, list[Failure]]:
        """Transform records as they are loaded.

        Args:
            batch: any records.
            draw: where randomness comes from.

        Returns:
            What becomes of them, and those that a transform failed on.

        Raises:
            DataError: a transform makes new records of several, which is possible only while a source is read.
            OutageError: something that a transform needs is away.
        """
        failures: list[Failure] = []
        for place, (transform, given) in enumerate(zip(self.transforms, self._given, strict=True)):
            if transform.combiner(given) is not None:
                raise DataError(
                    f"{transform.stage} makes new records of several and cannot be applied while records are loaded; "
                    "apply it to the source that is prepared."
                )
            if len(batch):
                batch = self._survivors(place, batch, draw, failures.append)
        return (batch if len(batch) else _empty(self.schema)), failures

    def over_unit(
        self, batches: Iterable[Batch], draw: Draw, size: int, failed: Callable[[Failure], None]
    ) -> Iterator[Batch]:
        """Transform the records of one unit of a source.

        Args:
            batches: the records in order; how they are grouped does not matter.
            draw: where randomness comes from.
            size: bytes that a batch of the result may take, about; at least one record is in each.
            failed: told of each record that a transform failed on.

        Returns:
            The result in order, each batch with one record at least.

        Raises:
            OutageError: something that a transform needs is away.
        """
        stream: Iterator[Batch] = iter(batches)
        for place in range(len(self.transforms)):
            stream = self._stage(place, stream, draw, size, failed)
        return _grouped(stream, size)

    def _stage(
        self, place: int, batches: Iterator[Batch], draw: Draw, size: int, failed: Callable[[Failure], None]
    ) -> Iterator[Batch]:
        transform, given = self.transforms[place], self._given[place]
        combiner = transform.combiner(given)
        result = self._given[place + 1] if place + 1 < len(self._given) else self.schema
        most = records_within(result, size)
        if not all(field.fixed for field in result):
            most = min(most, _UNKNOWN_AT_FIRST)
        for batch in batches:
            start = 0
            while start < len(batch):
                piece = batch.part(start, min(start + most, len(batch)))
                start += len(piece)
                if combiner is None:
                    made = self._survivors(place, piece, draw, failed)
                else:
                    made = _survivors(combiner.add, piece, transform.stage, failed)
                if made.nbytes > size:
                    most = max(1, len(piece) * size // made.nbytes)
                elif made.nbytes < size // 4 and len(piece) == most:
                    most *= 2
                if len(made):
                    yield made
        if combiner is not None:
            made = combiner.finish()
            if len(made):
                yield made

    def _survivors(self, place: int, batch: Batch, draw: Draw, failed: Callable[[Failure], None]) -> Batch:
        """What one transform makes of records; where it fails on some, of the others."""
        transform = self.transforms[place]
        own = _own(draw, self.transforms[:place].count(transform))
        return _survivors(lambda piece: transform.apply(piece, own), batch, transform.stage, failed)


def _survivors(apply: Callable[[Batch], Batch], batch: Batch, stage: str, failed: Callable[[Failure], None]) -> Batch:
    """Apply to all records; on failure to each half of them, and so on until those that fail are alone."""
    pieces: list[Batch] = []
    failures: list[Failure] = []
    waiting = [batch]
    while waiting:
        piece = waiting.pop()
        try:
            pieces.append(apply(piece))
            continue
        except (OutageError, MemoryError):
            raise
        except (ConnectionError, TimeoutError) as error:  # no record's fault: what the transform asks is away
            raise OutageError(f"What {stage} needs is away: {type(error).__name__}: {error}") from error
        except BadRecordsError as error:
            reasons = error.reasons
        except Exception as error:  # noqa: BLE001  # whatever a person's function raises is the record's fault
            if len(piece) > 1:
                middle = len(piece) // 2
                waiting += [piece.part(middle, len(piece)), piece.part(0, middle)]
                continue
            reasons = {0: f"{type(error).__name__}: {error}"}
        failures += [_failure(piece, number, stage, reason) for number, reason in reasons.items()]
        good = np.setdiff1d(np.arange(len(piece)), list(reasons))
        if len(good):
            waiting.append(piece.take(good))
    for failure in sorted(failures, key=lambda failure: failure.id):
        failed(failure)
    if not pieces:
        return batch.part(0, 0)
    return pieces[0] if len(pieces) == 1 else Batch.join(pieces)


def _failure(batch: Batch, number: int, stage: str, reason: str) -> Failure:
    record: dict[str, object] = {}
    for name, column in batch.columns.items():
        value = column[number]
        if isinstance(column, np.ndarray):
            value = {
                "dtype": column.dtype.name,
                "shape": column.shape[1:],
                "data": np.ascontiguousarray(value).tobytes(),
            }
        else:
            value = value.as_py()
        record[name] = value
    return Failure(
        id=int(batch.ids[number]), stage=stage, reason=reason[:_LONGEST_REASON], payload=msgspec.msgpack.encode(record)
    )


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """The same records in batches of `size` bytes at most and, but for the last, of a quarter of that at least."""
    waiting: list[Batch] = []
    taken = 0
    for batch in batches:
        if waiting and taken + batch.nbytes > size:
            yield Batch.join(waiting)
            waiting, taken = [], 0
        if batch.nbytes > size:
            yield from batch.pieces(size)
            continue
        waiting.append(batch)
        taken += batch.nbytes
        if taken >= size // 4:
            yield Batch.join(waiting)
            waiting, taken = [], 0
    if waiting:
        yield Batch.join(waiting)


def _own(draw: Draw, earlier: int) -> Draw:
    """Randomness of a transform that stands in the chain for the second or a later time."""
    if not earlier:
        return draw
    digest = hashlib.blake2b(f"{draw.seed} {earlier}".encode(), digest_size=8).digest()
    return Draw(int.from_bytes(digest, "little"), draw.epoch)


def _empty(schema: Schema) -> Batch:
    return Batch({field.name: field.empty() for field in schema}, np.empty(0, np.int64))


def _check_names(schema: Schema, transform: Transform) -> None:
    names = [field.name for field in schema]
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"{transform.stage} would leave the fields {', '.join(names) or 'none'}; different ones are needed."
        )


def check_transforms(transforms: Sequence[object]) -> tuple[Transform, ...]:
    """Transforms from transforms or their plain data; errors as for `transform_from`."""
    return tuple(map(transform_from, transforms))
