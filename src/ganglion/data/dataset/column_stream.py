"""Some columns of a dataset from its first record to its last, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ganglion.core.errors import DataError, suggest
from ganglion.data.records.columns import Columns
from ganglion.data.records.schema import Field, records_within

if TYPE_CHECKING:
    from ganglion.data.parts.split import Divisible

_AT_ONCE = 2**23


def find_fields(dataset: Divisible, names: Sequence[str] | None) -> tuple[Field, ...]:
    """Fields of a dataset by their names; all for `None`.

    Raises:
        DataError: there is no such field.
    """
    known = {field.name: field for field in dataset.schema}
    for name in names or ():
        if name not in known:
            raise DataError(f"The dataset has no field {name!r}. {suggest(name, known)}")
    return tuple(known.values()) if names is None else tuple(known[name] for name in names)


def stream_columns(
    dataset: Divisible, fields: Sequence[Field], start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, Columns]]:
    """Pieces of columns, each with the number of its first record, in order.

    Args:
        dataset: where from; where it lies in several segments, no piece crosses their borders, so that nothing has to
            be copied.
        fields: which columns.
        start: first record.
        stop: record after the last; the end for `None`.
    """
    stop = dataset.count if stop is None else stop
    records = records_within(dataset.schema, _AT_ONCE)
    borders = [int(border) for border in getattr(dataset, "starts", ()) if start < border < stop]
    for begin, end in zip((start, *borders), (*borders, stop), strict=True):
        for first in range(begin, end, records):
            columns = dataset.slice(first, min(first + records, end))
            yield first, {field.name: columns[field.name] for field in fields}
