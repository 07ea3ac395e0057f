"""A split by time, or by any other number that grows: learn from the past, be judged by the future."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.dataset.column_stream import find_fields, stream_columns
from ganglion.data.parts.selection_split import SelectionSplit
from ganglion.data.parts.split import Divisible
from ganglion.data.records.columns import Array


class TimeSplit(SelectionSplit, frozen=True, tag="ganglion.data.parts.time_split:TimeSplit"):
    """How to divide a dataset by a number that each record has; no value is in two parts.

    Attributes:
        parts: names of the parts, from the earliest to the latest, with the fraction of each, as `{"train": 0.8,
            "held_out": 0.2}`. Where `before` is given the fractions play no part and may be anything that sums to 1.
        by: the field that holds the time: single numbers.
        before: for each part but the last, the time before which its records end. Without it these are found in the
            first generation of the dataset, such that its records are divided by the fractions (records of equal time
            go to the later part), and stay there: what is added later mostly goes to the last part. Finding them takes
            the memory of that column.

    Raises:
        DataError: the fractions do not go together, or times do not ascend or are not as many as needed.
    """

    before: tuple[int | float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.before is not None and (
            len(self.before) != len(self.parts) - 1 or not all(np.diff(np.array(self.before, float)) > 0)
        ):
            raise DataError(
                f"The parts {', '.join(self.parts)} need {len(self.parts) - 1} ascending times between them; "
                f"given: {', '.join(map(str, self.before)) or 'none'}."
            )

    def masks(self, place: int, dataset: Divisible) -> Iterator[npt.NDArray[np.bool_]]:
        """Which records belong to the part at this place.

        Raises:
            DataError: a record has no time (NaN).
        """
        cuts = np.array(self._found(dataset) if self.before is None else self.before)
        return (np.searchsorted(cuts, times, side="right") == place for times in self._times(dataset, dataset.count))

    def _found(self, dataset: Divisible) -> Array:
        """The times at which the records of the first generation are divided by the fractions."""
        times = np.sort(np.concatenate(list(self._times(dataset, dataset.generations[0]))))
        places = [round(end * len(times)) for end in np.cumsum(list(self.parts.values()))[:-1]]
        found: Array = times[np.minimum(places, len(times) - 1)]
        return found

    def _times(self, dataset: Divisible, stop: int) -> Iterator[npt.NDArray[np.number]]:
        (field,) = fields = find_fields(dataset, (self.by,))
        if not field.fixed or field.shape or field.dtype.startswith("complex"):
            raise DataError(f"Records cannot be put in time by the field {field}; single numbers are needed.")
        for first, columns in stream_columns(dataset, fields, 0, stop):
            times = np.asarray(columns[self.by])
            if times.dtype.kind == "f" and np.isnan(times).any():
                record = first + int(np.flatnonzero(np.isnan(times))[0])
                raise DataError(f"Record {record} has no {self.by!r} (NaN); leave such records out with a filter.")
            yield times
