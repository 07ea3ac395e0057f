"""`Map`: a person's function makes records of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.core.registry import load_object
from ganglion.data.records.batch import Batch, Ids
from ganglion.data.records.columns import Columns
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema
from ganglion.data.records.single import records_from
from ganglion.data.transform import BadRecordsError, Transform
from ganglion.data.transforms.function import Function, function_of


class Chance:
    """Random numbers for the records of a batch, which depend on (seed, epoch, record, purpose) alone."""

    def __init__(self, draw: Draw, ids: Ids, single: bool = False) -> None:
        self._draw = draw
        self._ids = ids
        self._single = single

    def uniform(self, purpose: str = "map", values: int = 1) -> npt.NDArray[np.float64]:
        """Independent numbers from 0 (inclusive) to 1 (exclusive).

        Args:
            purpose: different purposes get independent numbers.
            values: how many for each record.

        Returns:
            Shape `(records, values)`; for a function of single records `(values,)`.
        """
        drawn = self._draw.uniform(self._ids, purpose, values)
        return drawn[0] if self._single else drawn


class Map(Transform, frozen=True, dict=True, tag="ganglion.data.transforms.map:Map"):
    """Records become what a function returns for them.

    The function is given a dictionary of columns (NumPy arrays of shape `(records, ...)`, Arrow arrays where records
    differ in length; not to be changed) and returns another one: these are all fields of the result, so that
    `lambda columns: {**columns, "area": columns["width"] * columns["height"]}` adds one. What it returns for a record
    must depend on that record alone. NaN are values like others.

    Attributes:
        function: a callable, its import path, or a `Function`, which has further arguments. It travels to other
            processes by import path; without one it is pickled, which needs the same code there.
        records: the function is given single records, as dictionaries, and returns such; slower by a factor of a
            hundred or so, but a record that it raises on is found without a search.
        torch: columns of fixed length are torch tensors, in and out.
        random: the function is given a `Chance` as its second argument.
        fields: of the result; `None` to find out by calling the function on two made-up records (ones, `"1"`).
    """

    function: Any
    records: bool = False
    torch: bool = False
    random: bool = False
    fields: tuple[Field, ...] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "function", function_of(self.function))
        if self.records and self.torch:
            raise DataError("A function is given either single records or tensors; set one of records and torch.")

    @property
    def stage(self) -> str:
        """What the quarantine calls this transform."""
        return f"map {self._function.name}"

    def schema(self, given: Schema) -> Schema:
        """The fields that the function returns.

        Raises:
            DataError: they are not said, and the function fails on made-up records or returns no records for them.
        """
        if self.fields is not None:
            return self.fields
        known: dict[Schema, Schema] = self.__dict__.setdefault("known", {})
        if given not in known:
            known[given] = self._probe(given)
        return known[given]

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Call the function."""
        schema = self.schema(tuple(Field.of(name, column) for name, column in batch.columns.items()))
        if self.records:
            return batch.having(self._by_record(batch, draw, schema))
        columns = _checked(schema, self._call(batch, draw), len(batch))
        return batch.having(columns)

    @property
    def _function(self) -> Function:
        function: Function = self.function
        return function

    def _call(self, batch: Batch, draw: Draw) -> Mapping[str, Any]:
        chance = (Chance(draw, batch.ids),) if self.random else ()
        if not self.torch:
            found: Mapping[str, Any] = self._function.callable(dict(batch.columns), *chance, **self._function.bound)
            return found
        to_tensors, to_arrays = (load_object(f"ganglion.data.torch:{name}") for name in ("to_tensors", "to_arrays"))
        made = self._function.callable(to_tensors(batch.columns), *chance, **self._function.bound)
        arrays: Mapping[str, Any] = to_arrays(made) if isinstance(made, Mapping) else made
        return arrays

    def _by_record(self, batch: Batch, draw: Draw, schema: Schema) -> Columns:
        from ganglion.data.records.values import checked_record, columns_from

        made, reasons = [], {}
        for number, result in enumerate(call_on_records(self._function, batch, draw, self.random)):
            if isinstance(result, Exception):
                reasons[number] = f"{type(result).__name__}: {result}"
                continue
            try:
                made.append(checked_record(schema, result))
            except DataError as error:
                reasons[number] = f"the function returned a record whose {error}"
        if reasons:
            raise BadRecordsError(reasons)
        return columns_from(schema, made)

    def _probe(self, given: Schema) -> Schema:
        batch = Batch({field.name: _made_up(field) for field in given}, np.arange(2))
        with np.errstate(all="ignore"):
            try:
                if self.records:
                    results = list(call_on_records(self._function, batch, Draw(), self.random))
                    found = _fields_of_record(results[0])
                else:
                    found = _fields_of_columns(self._call(batch, Draw()))
            except Exception as error:
                raise DataError(
                    f"What {self._function.name} returns cannot be found out by calling it on two made-up records "
                    f"({type(error).__name__}: {error}); say it, as in map(..., fields=(Field('x', 'float32'),))."
                ) from error
        if not found:
            raise DataError(f"{self._function.name} returns no fields; it has to return a dictionary of columns.")
        return found


def call_on_records(function: Function, batch: Batch, draw: Draw, random: bool) -> list[Any]:
    """What a function returns for each record, or the exception that it raises."""
    results: list[Any] = []
    call: Callable[..., Any] = function.callable
    for number, record in enumerate(records_from(batch.columns)):
        chance = (Chance(draw, batch.ids[number : number + 1], single=True),) if random else ()
        try:
            results.append(call(record, *chance, **function.bound))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it raises, the record is set aside with it
            results.append(error)
    return results


def _checked(schema: Schema, made: Any, records: int) -> Columns:
    """The columns that a function returned, if they are those that were announced."""
    if (
        isinstance(made, Mapping)
        and set(made) == {field.name for field in schema}
        and all(
            isinstance(made[field.name], np.ndarray)
            and field.fixed
            and made[field.name].dtype.name == field.dtype
            and made[field.name].shape[1:] == field.shape
            for field in schema
        )
    ):
        columns: Columns = {field.name: made[field.name] for field in schema}
    else:
        from ganglion.data.records.values import checked_columns

        columns = checked_columns(schema, made)
    if any(len(column) != records for column in columns.values()):
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise DataError(f"the function was given {records} records and returned columns of other lengths: {lengths}")
    return columns


def _fields_of_columns(columns: Mapping[str, Any]) -> Schema:
    found = []
    for name, column in columns.items():
        known = column if isinstance(column, np.ndarray) or hasattr(column, "null_count") else np.asarray(column)
        found.append(Field.of(name, known))
        if len(known) != 2:
            raise DataError(f"for 2 records it returned a column {name!r} of {len(known)}")
    return tuple(found)


def _fields_of_record(record: Any) -> Schema:
    if isinstance(record, Exception):
        raise record
    if not isinstance(record, Mapping):
        raise DataError(f"it returned {type(record).__name__}, not a dictionary")
    found = []
    for name, value in record.items():
        if isinstance(value, str | bytes):
            found.append(Field(name, TEXT if isinstance(value, str) else BYTES))
        else:
            array = np.asarray(value)
            found.append(Field(name, array.dtype.name, array.shape))
    return tuple(found)


def _made_up(field: Field) -> Any:
    if field.fixed:
        return np.ones((2, *field.shape), field.dtype)
    import pyarrow as pa

    value: Any = {TEXT: "1", BYTES: b"1"}.get(field.dtype, np.ones(1, field.dtype) if field.sequence else None)
    return pa.array([value, value], field.arrow_type)
