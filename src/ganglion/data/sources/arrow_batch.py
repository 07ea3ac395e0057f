"""From Arrow arrays to a batch of records, without those that have a null where none may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns, take
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit
from ganglion.data.sources.arrow_columns import nan_rows
from ganglion.data.sources.arrow_fields import column_of


def batch_of(
    unit: Unit,
    first: int,
    arrays: Mapping[str, pa.Array],
    schema: Schema,
    fill: Mapping[str, Any],
    required: Sequence[str],
    set_aside: SetAside,
) -> Batch:
    """The records of some arrays.

    Args:
        unit: that they belong to.
        first: number of the first one in the unit.
        arrays: by name; one for each field.
        schema: the fields.
        fill: by name, what stands for nulls.
        required: fields in which NaN makes a record bad.
        set_aside: told of records with a null that nothing stands for, and of those with NaN where a number is needed.
    """
    columns: Columns = {}
    reasons: dict[int, str] = {}
    for field in schema:
        column, missing = column_of(arrays[field.name], field, fill)
        columns[field.name] = column
        nan = nan_rows(column) if field.name in required else None
        for rows, what in ((missing, "null"), (nan, "NaN")):
            if rows is not None:
                for row in np.flatnonzero(rows).tolist():
                    reasons.setdefault(row, f"{field.name!r} is {what}")
    records = len(next(iter(arrays.values())))
    ids = unit.ids(first, first + records)
    if not reasons:
        return Batch(columns, ids)
    for row, reason in sorted(reasons.items()):
        set_aside(BadRecord.at(unit, first + row, reason))
    keep = np.delete(np.arange(records), list(reasons))
    return Batch(take(columns, keep), ids[keep])
