"""How records lie in an Arrow IPC file: one record batch, each column one run of bytes that NumPy can map as it is.

The format ("Arrow Columnar Format", arrow.apache.org, section *Serialization and Interprocess Communication*). Columns
of fixed length are primitive arrays or fixed-size lists of them, marked as Arrow's tensors are; booleans take a byte
each, as Arrow's extension `bool8`. Every buffer begins at a multiple of 64 bytes of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.dataset.flatbuffer import Scalar, Structs, Table, encode
from ganglion.data.records.schema import TEXT, Field, Schema

IDS = "ganglion.id"
"""The column of record ids, behind those of the schema."""

ALIGNMENT = 64
"""Every buffer begins at a multiple of so many bytes."""

MAGIC = b"ARROW1\0\0"
_VERSION, _CONTINUED = Scalar("h", 4), b"\xff\xff\xff\xff"
_SCHEMA, _RECORD_BATCH = 1, 3  # of the union MessageHeader
_INT, _FLOAT, _BINARY, _TEXT, _LIST, _FIXED_LIST = 2, 3, 4, 5, 12, 16  # of the union Type
_PRECISION = {2: 0, 4: 1, 8: 2}


class Buffer(msgspec.Struct, frozen=True, array_like=True):
    """A run of bytes in a file.

    Attributes:
        offset: of its first byte.
        size: bytes.
    """

    offset: int
    size: int


class Layout(msgspec.Struct, frozen=True):
    """A file around the buffers of its columns.

    Attributes:
        head: the bytes before the first buffer.
        buffers: of each column, in the order of the file: the values, or where each record begins and the values.
        foot: the bytes behind the last buffer and its padding.
    """

    head: bytes
    buffers: dict[str, tuple[Buffer, ...]]
    foot: bytes


def storage(field: Field) -> np.dtype[np.generic]:
    """The little-endian type of the single numbers that a column's values consist of; bytes for text and bytes.

    Raises:
        DataError: Arrow has no such type.
    """
    if not field.fixed and not field.sequence:
        return np.dtype(np.uint8)
    dtype = np.dtype(field.dtype)
    if dtype.kind == "b":
        return np.dtype(np.int8)
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    if dtype.itemsize not in (1, 2, 4, 8):
        raise DataError(f"The field {field.name!r} holds {field.dtype}, which cannot be stored; use float64.")
    return dtype.newbyteorder("<")


def lay_out(schema: Schema, records: int, sizes: Mapping[str, Sequence[int]]) -> Layout:
    """Place the buffers of a file.

    Args:
        schema: of the records; the column of ids comes behind.
        records: how many.
        sizes: bytes of each column's buffers, in their order.
    """
    fields = (*schema, Field(IDS, "int64"))
    described = _schema(fields)
    head = MAGIC + _message(_SCHEMA, described, 0, 8, len(MAGIC))
    placed: dict[str, list[Buffer]] = {}
    body = 0
    for field in fields:
        for size in sizes[field.name]:
            placed.setdefault(field.name, []).append(Buffer(body, size))
            body += size + -size % ALIGNMENT
    batch = _record_batch(fields, records, placed)
    message = _message(_RECORD_BATCH, batch, body, ALIGNMENT, len(head))
    start = len(head) + len(message)
    block = Structs(((len(head), len(message), body),), "qi4xq")
    footer = encode(Table((_VERSION, described, None, block)))
    return Layout(
        head=head + message,
        buffers={
            name: tuple(Buffer(start + buffer.offset, buffer.size) for buffer in buffers)
            for name, buffers in placed.items()
        },
        foot=_CONTINUED + bytes(4) + footer + struct.pack("<i", len(footer)) + MAGIC[:6],
    )


def _message(kind: int, header: Table, body: int, alignment: int, before: int) -> bytes:
    """An encapsulated message, padded so that what follows it begins at a multiple of `alignment` in the file."""
    encoded = encode(Table((_VERSION, Scalar("B", kind), header, Scalar("q", body))))
    encoded += bytes(-(before + 8 + len(encoded)) % alignment)
    return _CONTINUED + struct.pack("<i", len(encoded)) + encoded


def _schema(fields: Sequence[Field]) -> Table:
    return Table((Scalar("h", 0), tuple(_field(field) for field in fields)))


def _field(field: Field) -> Table:
    if not field.fixed:
        if not field.sequence:
            return _described(field.name, _TEXT if field.dtype == TEXT else _BINARY, Table(()))
        return _described(field.name, _LIST, Table(()), (_number("item", field),))
    length = _length(field)
    if length is None:
        return _number(field.name, field)
    extension = {}
    if np.dtype(field.dtype).kind not in "bc":
        shape = msgspec.json.encode({"shape": field.shape}).decode()
        extension = {"ARROW:extension:name": "arrow.fixed_shape_tensor", "ARROW:extension:metadata": shape}
    size = Table((Scalar("i", length),))
    return _described(field.name, _FIXED_LIST, size, (_number("item", field),), extension)


def _number(name: str, field: Field) -> Table:
    dtype = storage(field)
    extension = {}
    if np.dtype(field.dtype).kind == "b":
        extension = {"ARROW:extension:name": "arrow.bool8", "ARROW:extension:metadata": ""}
    if dtype.kind == "f":
        return _described(name, _FLOAT, Table((Scalar("h", _PRECISION[dtype.itemsize]),)), (), extension)
    integer = Table((Scalar("i", 8 * dtype.itemsize), Scalar("B", int(dtype.kind == "i"))))
    return _described(name, _INT, integer, (), extension)


def _described(
    name: str, kind: int, type_: Table, children: tuple[Table, ...] = (), extension: Mapping[str, str] | None = None
) -> Table:
    metadata = tuple(Table((key, value)) for key, value in (extension or {}).items())
    return Table((name, Scalar("B", 0), Scalar("B", kind), type_, None, children, metadata or None))


def _length(field: Field) -> int | None:
    """Numbers in a record, if the column is a list of them."""
    parts = 2 if np.dtype(field.dtype).kind == "c" else 1
    return parts * math.prod(field.shape) if field.shape or parts > 1 else None


def _record_batch(fields: Sequence[Field], records: int, placed: Mapping[str, Sequence[Buffer]]) -> Table:
    nodes: list[tuple[int, int]] = []
    buffers: list[tuple[int, int]] = []
    for field in fields:
        *begins, values = ((buffer.offset, buffer.size) for buffer in placed[field.name])
        absent = (values[0], 0)  # no value is missing
        nodes.append((records, 0))
        buffers.append(absent)
        buffers += begins
        if field.sequence or (field.fixed and _length(field) is not None):
            nodes.append((values[1] // storage(field).itemsize, 0))
            buffers.append(absent)
        buffers.append(values)
    return Table((Scalar("q", records), Structs(tuple(nodes), "qq"), Structs(tuple(buffers), "qq")))
