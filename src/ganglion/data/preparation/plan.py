"""What has to be read for a dataset, cut into pieces that are written independently of each other; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from ganglion.artifacts.store import Artifact
from ganglion.core.errors import DataError
from ganglion.data.dataset.arrow_layout import IDS, storage
from ganglion.data.dataset.manifest import Account, Manifest, Origin
from ganglion.data.records.schema import Schema, describe
from ganglion.data.records.unit import Unit

SMALLEST_PIECE = 16 * 2**20
LARGEST_PIECE = 2**30
PIECES = 64
"""A source is cut into about so many pieces, of 16 MiB to 1 GiB."""

SEGMENT_BYTES = 256 * 2**20
"""Records of a segment take so many bytes, or those of a piece if that is more."""


Placed = TypeVar("Placed", Unit, Account)


class PlannedUnit(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that has to be read.

    Attributes:
        unit: as the source gives it.
        number: of the unit in the dataset, which ids of records are made of.
        recovers: whether only records in quarantine are wanted; the others were written before.
        expected: records that it must have, if that is known from before.
    """

    unit: Unit
    number: int
    recovers: bool = False
    expected: int | None = None


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbouring units that are read, and written to segments, by one process.

    Attributes:
        number: from 0.
        units: in order.
    """

    number: int
    units: tuple[PlannedUnit, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of a dataset, before it is written.

    Attributes:
        schema: of the records.
        segment_bytes: largest size of the records of a segment.
        pieces: what is read.
        origin: of the generation; its key is the name of the preparation.
        base: the dataset that it is added to, if any.
        generation: its number.
        classes: names of classes, by the column whose values are their numbers.
    """

    schema: Schema
    segment_bytes: int
    pieces: tuple[Piece, ...]
    origin: Origin
    base: Artifact | None = None
    generation: int = 0
    classes: dict[str, tuple[str, ...]] = {}


def check_schema(schema: Schema) -> None:
    """Refuse what cannot be written.

    Raises:
        DataError: there is no column, two have the same name, one has no name or holds nothing, or values of a kind
            that cannot be stored.
    """
    for field in schema:
        if not field.name or field.name == IDS:
            raise DataError(f"A column is named {field.name!r}; any other name is allowed that is not empty.")
        if field.fixed and field.record_bytes == 0:
            raise DataError(f"Records of {field} hold no values; every dimension must be at least 1.")
        storage(field)
    if len({field.name for field in schema}) != len(schema) or not schema:
        raise DataError(f"A source needs columns of different names; given: {describe(schema)}.")


def sizes_for(units: Sequence[Unit]) -> tuple[int, int]:
    """Bytes of a piece and of a segment that suit a source; a function of its size alone."""
    piece = min(max(sum(unit.size for unit in units) // PIECES, SMALLEST_PIECE), LARGEST_PIECE)
    return piece, max(piece, SEGMENT_BYTES)


def cut(units: Sequence[PlannedUnit], piece_bytes: int) -> tuple[Piece, ...]:
    """Put neighbouring units together until a piece has `piece_bytes`; one whose size is not known is enough alone."""

    def groups() -> Iterator[tuple[PlannedUnit, ...]]:
        group: list[PlannedUnit] = []
        size = 0
        for unit in units:
            group.append(unit)
            size += unit.unit.size or piece_bytes
            if size >= piece_bytes:
                yield tuple(group)
                group, size = [], 0
        if group:
            yield tuple(group)

    return tuple(Piece(number=number, units=group) for number, group in enumerate(groups()))


def new_units(manifest: Manifest, units: Sequence[Unit]) -> tuple[PlannedUnit, ...]:
    """The units of a source that grew which a dataset does not have yet, numbered behind those that it has.

    Args:
        manifest: of the dataset.
        units: of the source as it is now.

    Raises:
        DataError: a unit that was read before is gone or has changed.
    """
    now = _by_place(units)
    changed = []
    for place, account in _by_place(manifest.accounts).items():
        unit = now.pop(place, None)
        if unit is None:
            changed.append(f"{account.name or account.unit} is gone")
        elif (unit.fingerprint, unit.start, unit.stop) != (account.fingerprint, account.start, account.stop):
            changed.append(f"{account.name or account.unit} has changed")
    if changed:
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise DataError(
            f"The source has not only grown: {', '.join(changed[:3])}{more}. Give what is new as further files, or "
            "prepare the source anew."
        )
    first = max((account.unit for account in manifest.accounts), default=-1) + 1
    return tuple(PlannedUnit(unit=unit, number=number) for number, unit in enumerate(now.values(), first))


def units_to_recover(manifest: Manifest, units: Sequence[Unit]) -> tuple[PlannedUnit, ...]:
    """The units of a mended source in which records were set aside.

    Raises:
        DataError: one of them is gone.
    """
    now = _by_place(units)
    found = []
    for place, account in _by_place(manifest.accounts).items():
        if account.set_aside == 0:
            continue
        if place not in now:
            raise DataError(
                f"{account.name}, where {account.set_aside} records were set aside, is gone from the source."
            )
        found.append(PlannedUnit(unit=now[place], number=account.unit, recovers=True, expected=account.read))
    return tuple(found)


def _by_place(units: Sequence[Placed]) -> dict[tuple[str, int], Placed]:
    """Units by file and number in it: other files may come between the files of a source that grows."""
    seen: dict[str, int] = {}
    found = {}
    for unit in units:
        seen[unit.path] = seen.get(unit.path, 0) + 1
        found[unit.path, seen[unit.path]] = unit
    return found
