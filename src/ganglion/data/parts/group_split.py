"""A split that keeps groups together, such as all records of one patient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ganglion.data.dataset.column_stream import find_fields, stream_columns
from ganglion.data.parts.selection_split import SelectionSplit
from ganglion.data.parts.split import Divisible, share_ends
from ganglion.data.records.draw import Draw
from ganglion.data.records.hashing import hash_values


class GroupSplit(SelectionSplit, frozen=True, tag="ganglion.data.parts.group_split:GroupSplit"):
    """How to divide a dataset such that no group is in two parts.

    The part of a group is a function of (seed, fractions, key of the group) alone: the same in every dataset, and when
    data is added. Parts have their shares of the groups about, as when each group is drawn by itself.

    Attributes:
        parts: fraction of each part by name; they sum to 1.
        by: the field that holds the key of the group: single numbers or text. All NaN together are one group.
        seed: 0 to 2**64 - 1; another seed divides in another way.

    Raises:
        DataError: the fractions do not go together.
    """

    seed: int = 0

    def masks(self, place: int, dataset: Divisible) -> Iterator[npt.NDArray[np.bool_]]:
        """Which records belong to the part at this place; the keys are read once."""
        draw, ends = Draw(self.seed), share_ends(self.parts)
        for _, columns in stream_columns(dataset, find_fields(dataset, (self.by,))):
            drawn = draw.uniform(hash_values(columns[self.by]).view(np.int64), "group")[:, 0]
            yield np.searchsorted(ends, drawn, side="right") == place
