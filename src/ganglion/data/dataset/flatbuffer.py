"""Flatbuffers, the encoding of Arrow's metadata: tables of scalars, texts, vectors and other tables; written only.

The encoding ("FlatBuffers Internals", flatbuffers.dev): a table begins with the distance back to a list of where its
fields are; what has no fixed size lies behind whatever refers to it, at a distance that is written there. It is small
enough here to be written in one go, parents before children.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number of fixed size.

    Attributes:
        form: its code in `struct`: `b`, `B`, `h`, `i`, `q`.
        value: the number.
    """

    form: str
    value: int


@dataclass(frozen=True, slots=True)
class Table:
    """Fields by their number in the schema; `None` for one that is left out."""

    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Structs:
    """A vector of structs of equal size, whose members are 8-byte integers or padded to such.

    Attributes:
        rows: the members of each, as integers.
        form: of one, as in `struct`, without byte order.
    """

    rows: tuple[tuple[int, ...], ...]
    form: str


Field: TypeAlias = "Scalar | Table | Structs | tuple[Table, ...] | str | None"


def encode(root: Table) -> bytes:
    """The bytes of a buffer whose root is this table; their number is a multiple of 8."""
    encoder = _Encoder()
    encoder.patch(0, encoder.write(root))
    encoder.align(8)
    return bytes(encoder.data)


class _Encoder:
    def __init__(self) -> None:
        self.data = bytearray(4)  # where the root is

    def align(self, size: int, ahead: int = 0) -> None:
        """Pad so that what comes `ahead` bytes later is at a multiple of `size`."""
        self.data += bytes(-(len(self.data) + ahead) % size)

    def patch(self, place: int, target: int) -> None:
        struct.pack_into("<I", self.data, place, target - place)

    def write(self, value: Field) -> int:
        """Append a value; returns where it is."""
        match value:
            case Table(fields):
                return self._table(fields)
            case Structs(rows, form):
                self.align(8, ahead=4)
                return self._vector(len(rows), b"".join(struct.pack(f"<{form}", *row) for row in rows))
            case str():
                self.align(4)
                text = value.encode()
                return self._vector(len(text), text + b"\0")
            case tuple():
                return self._tables(value)
        raise AssertionError(f"{value!r} is written where it is referred to")

    def _vector(self, count: int, content: bytes) -> int:
        start = len(self.data)
        self.data += struct.pack("<I", count) + content
        return start

    def _tables(self, tables: Sequence[Table]) -> int:
        self.align(4)
        start = self._vector(len(tables), bytes(4 * len(tables)))
        for number, table in enumerate(tables):
            self.patch(start + 4 + 4 * number, self.write(table))
        return start

    def _table(self, fields: Sequence[Field]) -> int:
        places, size = [], 4
        for field in fields:
            width = struct.calcsize(field.form) if isinstance(field, Scalar) else 4
            if field is None:
                places.append(0)
                continue
            size += -size % width
            places.append(size)
            size += width
        listed = struct.pack(f"<HH{len(fields)}H", 4 + 2 * len(fields), size, *places)
        self.align(8, ahead=len(listed))
        start = len(self.data) + len(listed)
        self.data += listed + struct.pack("<i", len(listed)) + bytes(size - 4)
        references = []
        for field, place in zip(fields, places, strict=True):
            if isinstance(field, Scalar):
                struct.pack_into(f"<{field.form}", self.data, start + place, field.value)
            elif field is not None:
                references.append((start + place, field))
        for at, field in references:
            self.patch(at, self.write(field))
        return start
