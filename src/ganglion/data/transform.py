"""The seam for transforms: whole batches of columns in, whole batches out.

A transform is plain data, so that it can be written into a manifest, fingerprinted, and sent to the process that
applies it. It does the same when it is applied once while a dataset is prepared and, again and again, while it is
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ganglion.core.errors import DataError, suggest
from ganglion.core.registry import load_object
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema, describe


class BadRecordsError(Exception):
    """Some records cannot be transformed, and it is known which.

    A transform that finds out for itself saves whoever applies it the search. Any other exception says that some
    record is bad, not which.

    Attributes:
        reasons: what is wrong, by the number of the record in the batch; at least one.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.reasons = dict(reasons)


class Combiner(Protocol):
    """A transform at work that makes new records of those of one unit, such as packing."""

    def add(self, batch: Batch) -> Batch:
        """Take records in, in order, and give those that are complete, possibly none.

        Raises:
            Exception: some record cannot be used; then none of the batch was taken in.
        """
        ...

    def finish(self) -> Batch:
        """What is left at the end of the unit, possibly no record."""
        ...


class Transform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """What is done to records; subclasses give `schema` and `apply`.

    The tag of a subclass is its import path, `module:Class`, by which it is found.
    """

    @property
    def stage(self) -> str:
        """What the quarantine calls this transform."""
        return type(self).__name__.lower()

    @property
    def keeps_records(self) -> bool:
        """Whether there is one record in the result for each that is given, bad ones aside."""
        return True

    def schema(self, given: Schema) -> Schema:
        """The fields of what `apply` returns, from those of what it is given.

        Raises:
            DataError: a field that the transform needs is missing or of another kind; the message says which there are.
        """
        raise NotImplementedError

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Transform some records.

        The result depends on each record alone. What is given is not changed. Records that are left out keep the ids
        of the others as they are.

        Args:
            batch: records; at least one.
            draw: where randomness comes from.

        Raises:
            Exception: of any kind: some record cannot be transformed. Whoever applies the transform finds out which by
                applying it to fewer of them, sets those aside, and goes on with the rest.
        """
        raise NotImplementedError

    def combiner(self, given: Schema) -> Combiner | None:
        """Where the transform makes new records of several: one at work, for the records of one unit.

        Such a transform is applied by its combiner alone, and only while a source is read, since later records come in
        another order.

        Args:
            given: the fields of what it will be given.
        """
        return None


def find_field(given: Schema, name: str, transform: Transform) -> Field:
    """The field that a transform needs.

    Raises:
        DataError: it is not there.
    """
    for field in given:
        if field.name == name:
            return field
    raise DataError(f"{transform.stage} needs the field {name!r}. {suggest(name, (field.name for field in given))}")


def with_field(given: Schema, field: Field) -> Schema:
    """A schema with a field in the place of the one of the same name, else behind the others."""
    if all(known.name != field.name for known in given):
        return (*given, field)
    return tuple(field if known.name == field.name else known for known in given)


def refuse_field(field: Field, transform: Transform, needed: str) -> DataError:
    """What to raise where a field is of another kind than a transform needs."""
    return DataError(f"{transform.stage} was given the field {describe((field,))}; {needed}.")


def transform_from(data: Any) -> Transform:
    """A transform from its plain data; a transform is returned as it is.

    Raises:
        DataError: the data does not describe a transform.
    """
    if isinstance(data, Transform):
        return data
    path = data.get("type") if isinstance(data, dict) else None
    cls = load_object(path) if isinstance(path, str) else None
    if not (isinstance(cls, type) and issubclass(cls, Transform)):
        raise DataError(f"{data!r} does not describe a transform; under 'type' the import path of one is needed.")
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise DataError(f"{data!r} does not describe {cls.__name__}: {error}.") from error
