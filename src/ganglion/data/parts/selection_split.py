"""What splits by the values of a field have in common: shares by name, and one bitmap for each part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ganglion.data.parts.part import SelectionPart
from ganglion.data.parts.selection import Selection
from ganglion.data.parts.split import Divisible, PlainSplit, check_parts, find_part, refuse_empty


class SelectionSplit(PlainSplit, frozen=True):
    """A split by the values of a field; subclasses give `masks`.

    Attributes:
        parts: fraction of each part by name; they sum to 1.
        by: the field that decides.

    Raises:
        DataError: the fractions do not go together.
    """

    parts: dict[str, float]
    by: str

    def __post_init__(self) -> None:
        check_parts(self.parts, only_fractions=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(self.parts)

    def part(self, name: str, dataset: Divisible) -> SelectionPart:
        """One of the parts of a dataset, whose field is read for it."""
        selection = Selection.join(self.masks(find_part(name, self.parts), dataset))
        return refuse_empty(SelectionPart(selection, dataset.generations), name)

    def masks(self, place: int, dataset: Divisible) -> Iterator[npt.NDArray[np.bool_]]:
        """Which records belong to the part at this place, some records after the others."""
        raise NotImplementedError
