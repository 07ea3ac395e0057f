"""`Filter`: some records are left out."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Schema
from ganglion.data.transform import BadRecordsError, Transform
from ganglion.data.transforms.function import Function, function_of
from ganglion.data.transforms.map import Chance, call_on_records


class Filter(Transform, frozen=True, tag="ganglion.data.transforms.filter:Filter"):
    """Records for which a function returns true are kept, with their ids.

    Comparisons with NaN are false in NumPy, so that `columns["x"] > 0` leaves out records without a value.

    Attributes:
        function: a callable, its import path, or a `Function`. Of a dictionary of columns, as for `Map`, it makes an
            array of booleans, one for each record.
        records: the function is given single records, as dictionaries, and returns a boolean.
        random: the function is given a `Chance` as its second argument.
    """

    function: Any
    records: bool = False
    random: bool = False

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "function", function_of(self.function))

    @property
    def stage(self) -> str:
        """What the quarantine calls this transform."""
        return f"filter {self._function.name}"

    @property
    def keeps_records(self) -> bool:
        """No: some are left out."""
        return False

    def schema(self, given: Schema) -> Schema:
        """The given fields."""
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Leave records out."""
        if self.records:
            keep = self._by_record(batch, draw)
        else:
            chance = (Chance(draw, batch.ids),) if self.random else ()
            made = self._function.callable(dict(batch.columns), *chance, **self._function.bound)
            keep = made.to_numpy(zero_copy_only=False) if hasattr(made, "null_count") else np.asarray(made)
        if keep.dtype != bool or keep.shape != (len(batch),):
            raise DataError(
                f"the function returned {keep.dtype} of shape {keep.shape}; "
                f"booleans of shape ({len(batch)},) are needed"
            )
        return batch if keep.all() else batch.take(np.flatnonzero(keep))

    @property
    def _function(self) -> Function:
        function: Function = self.function
        return function

    def _by_record(self, batch: Batch, draw: Draw) -> Any:
        results = call_on_records(self._function, batch, draw, self.random)
        reasons = {}
        for number, result in enumerate(results):
            if isinstance(result, Exception):
                reasons[number] = f"{type(result).__name__}: {result}"
            elif not isinstance(result, bool | np.bool_):
                reasons[number] = f"the function returned {result!r}; True or False is needed"
        if reasons:
            raise BadRecordsError(reasons)
        return np.array(results, bool)
