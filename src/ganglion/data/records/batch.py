"""Some records on their way through sources and transforms: their columns, and who they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from ganglion.data.records import columns as columnwise
from ganglion.data.records.columns import Columns

Ids = npt.NDArray[np.int64]
"""Who records are: shape `(records,)`; unique in a source, the same whenever and by whomever it is read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records with their identity.

    Attributes:
        columns: by name; all of the same length.
        ids: one for each record.
    """

    columns: Columns
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return columnwise.bytes_of(self.columns)

    def take(self, records: npt.NDArray[np.integer]) -> Self:
        """Copies of some of the records, by their numbers in the batch."""
        return replace(self, columns=columnwise.take(self.columns, records), ids=self.ids[records])

    def part(self, start: int, stop: int) -> Self:
        """Views of the records `start` to `stop` (exclusive)."""
        return replace(self, columns=columnwise.part(self.columns, start, stop), ids=self.ids[start:stop])

    def pieces(self, size: int) -> Iterator[Self]:
        """Views of the records in order, each of about `size` bytes and of one record at least."""
        records = max(1, size * len(self) // max(1, self.nbytes))
        for start in range(0, len(self), records):
            yield self.part(start, min(start + records, len(self)))

    def having(self, columns: Columns) -> Self:
        """The same records with other columns."""
        return replace(self, columns=columns)

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Several batches with the same columns as one; at least one batch."""
        columns = columnwise.join([batch.columns for batch in batches])
        return cls(columns, np.concatenate([batch.ids for batch in batches]))
