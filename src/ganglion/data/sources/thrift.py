"""Structs in Thrift's compact protocol, read without a description of them (Apache Thrift, "Compact protocol").

What is read may be damaged: whatever the bytes are, the result is a struct or an error.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Struct: TypeAlias = dict[int, Any]
"""Values by the number of their field: numbers, booleans, bytes, structs, lists; None for what is passed over."""

_DEEPEST = 16
_TRUE, _FALSE, _BYTE, _DOUBLE, _BYTES, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


def read_struct(data: bytes, at: int, depth: int = 0) -> tuple[Struct, int]:
    """A struct that begins at `at`, and where it ends.

    Raises:
        IndexError: it goes on behind the last byte.
        ValueError: it is no struct; the message says why.
    """
    if depth > _DEEPEST:
        raise ValueError("its fields lie too deep in each other")
    fields: Struct = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            value, at = read_varint(data, at)
            number = value >> 1 ^ -(value & 1)
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number without sign of at most 64 bits, and where it ends.

    Raises:
        IndexError: it goes on behind the last byte.
        ValueError: it is too long.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in it does not end")


def number_in(values: Struct, field: int) -> int:
    """A field that has to be a number, and not a negative one.

    Raises:
        ValueError: it is not.
    """
    value = values.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its field {field} is {value!r}; a number is needed")
    return value


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        value, at = read_varint(data, at)
        return value >> 1 ^ -(value & 1), at
    if kind == _BYTES:
        size, at = read_varint(data, at)
        return _bytes(data, at, size), at + size
    if kind == _STRUCT:
        return read_struct(data, at, depth + 1)
    if kind in (_BYTE, _DOUBLE):
        size = 1 if kind == _BYTE else 8
        _bytes(data, at, size)
        return None, at + size
    if kind in (_LIST, _SET):
        return _list(data, at, depth)
    raise ValueError(f"byte {at} of it is of the unknown kind {kind}")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    kind, size = data[at] & 0x0F, data[at] >> 4
    at += 1
    if size == 15:
        size, at = read_varint(data, at)
    if size > len(data) - at:
        raise IndexError(f"a list of {size} values goes on behind the last byte")
    values: list[Any] = []
    for _ in range(size):
        if kind in (_TRUE, _FALSE):
            value, at = data[at] == _TRUE, at + 1
        else:
            value, at = _value(data, at, kind, depth + 1)
        values.append(value)
    return values, at


def _bytes(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise IndexError(f"{size} bytes go on behind the last byte")
    return data[at : at + size]
