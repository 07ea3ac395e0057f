"""Distinct values counted in bounded memory, the most frequent kept.

Where there are too many, counts are reduced as J. Misra and D. Gries do ("Finding Repeated Elements", Science of
Computer Programming 2, 1982): counts are then too small by at most a known number, and no value is lost that is more
frequent than that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

MOST = 2**16
"""Values that are kept where nothing else is said."""

Value = str | int


class Vocabulary:
    """Counts of values.

    Attributes:
        counts: by value.
        undercount: by how much each count may be too small, at most; 0 as long as all values are kept.

    Args:
        most: values that are kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self.counts: dict[Value, int] = {}
        self.undercount = 0
        self._most = most

    def add(self, column: npt.NDArray[Any] | pa.Array) -> None:
        """Count integers or text; the same pieces in the same order give the same counts."""
        if isinstance(column, np.ndarray):
            values, counts = np.unique(column, return_counts=True)
            self._add(zip(values.tolist(), counts.tolist(), strict=True))
        else:
            found = column.drop_null().value_counts()
            self._add(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))

    def most_frequent(self) -> tuple[tuple[Value, int], ...]:
        """Values with their counts, the most frequent first, then in order of the values."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(ordered[: self._most])

    def _add(self, found: Iterable[tuple[Value, int]]) -> None:
        counts = self.counts
        for value, count in found:
            counts[int(value) if isinstance(value, bool) else value] = counts.get(value, 0) + count
        if len(counts) > 2 * self._most or (self.undercount and len(counts) > self._most):
            cut = sorted(counts.values(), reverse=True)[self._most]
            self.counts = {value: count - cut for value, count in counts.items() if count > cut}
            self.undercount += cut
