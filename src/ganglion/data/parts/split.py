"""Splits: parts of a dataset, such as train and held-out, with no record in two of them; here, those drawn at random.

A random split stores no indices. The records of a generation are put in one fixed random order, given by the seed, and
each part has a range of positions in it. A generation that is added later is divided by itself, so that no record ever
moves from one part to another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError, suggest
from ganglion.core.registry import load_object
from ganglion.data.order import Order, derive_seed
from ganglion.data.parts.apportion import apportion
from ganglion.data.parts.part import Part, Range, RangesPart, SelectionPart, whole
from ganglion.data.records.columns import Columns
from ganglion.data.records.schema import Schema

__all__ = [
    "Divisible",
    "Part",
    "PlainSplit",
    "Split",
    "check_parts",
    "find_part",
    "refuse_empty",
    "share_ends",
    "split_from",
    "whole",
]


class Divisible(Protocol):
    """What splits need to know of a dataset; prepared datasets have it."""

    @property
    def count(self) -> int:
        """Number of records."""
        ...

    @property
    def generations(self) -> tuple[int, ...]:
        """Number of records up to the end of each generation."""
        ...

    @property
    def schema(self) -> Schema:
        """The columns."""
        ...

    def slice(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive) by column."""
        ...


class PlainSplit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A way to divide datasets, as plain data; subclasses give `names` and `part`.

    The tag of a subclass is its import path, `module:Class`, by which `split_from` finds it.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts."""
        raise NotImplementedError

    def part(self, name: str, dataset: Divisible) -> Part:
        """One of the parts of a dataset.

        Args:
            name: of the part.
            dataset: what is divided.

        Raises:
            DataError: there is no such part, the part would be empty, or the dataset cannot be divided in this way.
        """
        raise NotImplementedError


class Split(PlainSplit, frozen=True, tag="ganglion.data.parts.split:Split"):
    """How to divide a dataset at random.

    Which part a record belongs to is a function of (seed, sizes, generations of the dataset, record) alone, and stays
    what it is when a generation is added. Each part has its share of the records, within 1 where its share of every
    generation is a record at least, else within 2.

    Attributes:
        parts: size of each part by name: fractions that sum to 1, such as `{"train": 0.9, "held_out": 0.1}`, or
            numbers of records that sum to the size of the dataset (which can then not grow).
        seed: 0 to 2**64 - 1; another seed divides in another way.

    Raises:
        DataError: no part is named, sizes are not positive, of both kinds, or fractions do not sum to 1.
    """

    parts: dict[str, float | int]
    seed: int = 0

    def __post_init__(self) -> None:
        check_parts(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(self.parts)

    def part(self, name: str, dataset: Divisible | Sequence[int] | int) -> RangesPart:
        """The part `name` of a dataset.

        Args:
            name: of the part.
            dataset: what is divided; its generations, or the number of its records, say enough of it.

        Raises:
            DataError: there is no such part, numbers of records do not sum to the size of the dataset, or a part would
                be empty.
        """
        find_part(name, self.parts)
        ends = _ends(dataset)
        place = self.names.index(name)
        ranges = []
        for generation, (start, end, sizes) in enumerate(zip((0, *ends), ends, self._sizes(ends), strict=False)):
            if end > start:
                order = Order(end - start, derive_seed(self.seed, f"split {generation}" if generation else "split"))
                ranges.append(Range(order, start, sum(sizes[:place]), sizes[place]))
        return RangesPart(tuple(ranges))

    def sizes(self, dataset: Divisible | Sequence[int] | int) -> dict[str, int]:
        """Number of records in each part; they sum to those of the dataset. Errors as for `part`."""
        return dict(zip(self.parts, map(sum, zip(*self._sizes(_ends(dataset)), strict=True)), strict=True))

    def _sizes(self, ends: Sequence[int]) -> list[tuple[int, ...]]:
        """Size of each part in each generation."""
        count = ends[-1]
        if all(isinstance(size, float) for size in self.parts.values()):
            had = (0,) * len(self.parts)
            sizes = []
            for end in ends:
                sizes.append(apportion(tuple(self.parts.values()), end, had))
                had = tuple(map(sum, zip(had, sizes[-1], strict=True)))
        elif len(ends) > 1:
            raise DataError(
                f"The dataset has grown to {count} records in {len(ends)} generations; it can be divided by fractions, "
                f"not by numbers of records such as {next(iter(self.parts.values()))}."
            )
        else:
            sizes = [tuple(int(size) for size in self.parts.values())]
        totals = [sum(of_part) for of_part in zip(*sizes, strict=True)]
        described = ", ".join(f"{name}={size}" for name, size in zip(self.parts, totals, strict=True))
        if sum(totals) != count:
            raise DataError(f"The parts {described} have {sum(totals)} records together; the dataset has {count}.")
        if min(totals) < 1:
            raise DataError(
                f"The dataset has {count} records, too few for these parts, one of them empty: {described}."
            )
        return sizes


def check_parts(parts: Mapping[str, float | int], *, only_fractions: bool = False) -> None:
    """Refuse sizes of parts that do not go together.

    Raises:
        DataError: no part is named, sizes are not positive, of both kinds, or fractions do not sum to 1.
    """
    sizes = list(parts.values())
    given = ", ".join(f"{name}={size}" for name, size in parts.items()) or "nothing"
    if not sizes or not all(size > 0 for size in sizes):
        raise DataError(f"A split needs parts with positive sizes; given: {given}.")
    fractions = [isinstance(size, float) for size in sizes]
    if only_fractions and not all(fractions):
        raise DataError(f"This split takes fractions that sum to 1; given: {given}.")
    if any(fractions) and not all(fractions):
        raise DataError(f"A split takes either fractions or numbers of records, not both; given: {given}.")
    if all(fractions) and not math.isclose(math.fsum(sizes), 1.0, abs_tol=1e-9):
        raise DataError(f"Fractions of a split must sum to 1, so that every record has its part; given: {given}.")


def find_part(name: str, parts: Mapping[str, Any]) -> int:
    """The place of a part among the others.

    Raises:
        DataError: there is no such part.
    """
    if name not in parts:
        raise DataError(f"The split has no part {name!r}. {suggest(name, parts)}")
    return list(parts).index(name)


def refuse_empty(part: SelectionPart, name: str) -> SelectionPart:
    """Return a part that has records.

    Raises:
        DataError: it has none.
    """
    if not part.count:
        raise DataError(
            f"The part {name!r} would be empty: none of the {part.of} records of the dataset belongs to it."
        )
    return part


def share_ends(parts: Mapping[str, float | int]) -> npt.NDArray[np.float64]:
    """Where each part ends on the line from 0 to 1; the last at infinity, so that rounding leaves nobody out."""
    return np.array([*list(accumulate(parts.values()))[:-1], np.inf])


def split_from(data: PlainSplit | dict[str, Any]) -> PlainSplit:
    """A split from its plain data; a split is returned as it is.

    Args:
        data: as `msgspec.to_builtins` gives it; without `type`, that of a `Split`.

    Raises:
        DataError: the data does not describe a split.
    """
    if isinstance(data, PlainSplit):
        return data
    path = data.get("type", "ganglion.data.parts.split:Split") if isinstance(data, dict) else None
    cls = load_object(path) if isinstance(path, str) else None
    if not (isinstance(cls, type) and issubclass(cls, PlainSplit)):
        raise DataError(f"{data!r} does not describe a split; under 'type' the import path of one is needed.")
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise DataError(f"{data!r} does not describe {cls.__name__}: {error}.") from error


def _ends(dataset: Divisible | Sequence[int] | int) -> tuple[int, ...]:
    if isinstance(dataset, int):
        return (dataset,)
    return tuple(dataset) if isinstance(dataset, Sequence) else dataset.generations
