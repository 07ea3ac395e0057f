"""Folds for cross-validation: each record is held out once."""

from __future__ import annotations

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.parts.dataset_part import DatasetPart, Gathering
from ganglion.data.parts.group_split import GroupSplit
from ganglion.data.parts.part import AnyPart, NestedPart, Part, Range, RangesPart, SelectionPart, part_from
from ganglion.data.parts.split import PlainSplit, Split
from ganglion.data.parts.stratified_split import StratifiedSplit


class Fold(msgspec.Struct, frozen=True):
    """One round of cross-validation.

    Attributes:
        train: records to learn from.
        held_out: records to be judged by; none of `train`.
    """

    train: AnyPart
    held_out: AnyPart


class Folds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to divide a dataset, or a part of it, into folds of nearly the same size; plain data.

    Attributes:
        count: of folds, 2 or more.
        seed: another seed divides in another way.
        stratify: a field whose classes each fold has in the same proportions.
        group: a field whose groups are never divided; folds then have about the same number of groups.

    Raises:
        DataError: there are fewer than two folds, or both a class and a group are given.
    """

    count: int
    seed: int = 0
    stratify: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise DataError(f"{self.count} folds were asked for; at least 2 are needed.")
        if self.stratify is not None and self.group is not None:
            raise DataError("Folds keep either the proportions of classes or groups together; give one of the two.")

    def fold(self, number: int, dataset: Gathering, within: Part | None = None) -> Fold:
        """One of the folds of a dataset.

        Args:
            number: 0 to `count` - 1.
            dataset: what is divided.
            within: only this part of it, such as the training part; the rest is in no fold.

        Raises:
            DataError: there is no such fold, or a fold would be empty.
        """
        if not 0 <= number < self.count:
            raise DataError(f"Fold {number} was asked for; there are 0 to {self.count - 1}.")
        divided = dataset if within is None else DatasetPart(dataset, within)
        held_out = part_from(self._split.part(str(number), divided))
        fold = Fold(_rest(held_out), held_out)
        if within is None:
            return fold
        outer = part_from(within)
        return Fold(NestedPart(outer, fold.train), NestedPart(outer, fold.held_out))

    @property
    def _split(self) -> PlainSplit:
        parts = {str(number): 1.0 / self.count for number in range(self.count)}
        if self.stratify is not None:
            return StratifiedSplit(parts, self.stratify, self.seed)
        return Split(dict(parts), self.seed) if self.group is None else GroupSplit(parts, self.group, self.seed)


def _rest(part: AnyPart) -> AnyPart:
    """The records that are not in a part."""
    if isinstance(part, SelectionPart):
        return SelectionPart(part.selection.complement(), part.ends)
    assert isinstance(part, RangesPart), "splits make ranges or selections"
    ranges = []
    for piece in part.ranges:
        after = piece.first + piece.count
        ranges.append(Range(piece.order, piece.start, 0, piece.first))
        ranges.append(Range(piece.order, piece.start, after, piece.order.count - after))
    return RangesPart(tuple(piece for piece in ranges if piece.count))
