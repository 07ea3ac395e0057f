"""`tf.train.Example` without TensorFlow: where the values of each feature lie in a record, and how one is written.

A record is a Protocol Buffers message (TensorFlow, `example.proto` and `feature.proto`; Protocol Buffers
documentation, "Encoding"): a map from names to lists of byte strings, 32-bit floats or 64-bit integers. Of these only
the places are found here; the values are taken from there, for many records at once where they are laid out alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array

BYTES, FLOATS, INTEGERS = 1, 2, 3
KINDS = {BYTES: "bytes", FLOATS: "floats", INTEGERS: "integers"}
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_LONGEST = 10  # bytes of a varint


@dataclass(frozen=True, slots=True)
class Feature:
    """The values of one feature of one record.

    Attributes:
        kind: `BYTES`, `FLOATS` or `INTEGERS`; 0 where the record has the name and no list.
        spans: where they lie in the record, first byte and the one behind the last: each byte string, or stretches of
            floats of four bytes, or stretches of varints.
    """

    kind: int
    spans: tuple[tuple[int, int], ...]


def encode(features: Mapping[str, Any]) -> bytes:
    """Write a record.

    Args:
        features: by name: a byte string, a text, a number, or numbers as an array of any shape or a sequence. Arrays of
            floating-point numbers are written as 32-bit floats, others as integers.

    Raises:
        DataError: a value is none of these.
    """
    entries = []
    for name, value in features.items():
        if isinstance(value, str | bytes):
            kind, content = BYTES, _delimited(1, value.encode() if isinstance(value, str) else value)
        else:
            values = np.asarray(value).reshape(-1)
            if values.dtype.kind not in "biuf":
                raise DataError(f"The feature {name!r} is {values.dtype}; text, bytes and numbers can be written.")
            if values.dtype.kind == "f":
                kind, packed = FLOATS, values.astype("<f4").tobytes()
            else:
                kind, packed = INTEGERS, b"".join(_encoded(int(each) & 2**64 - 1) for each in values)
            content = _delimited(1, packed)
        feature = _delimited(kind, content)
        entries.append(_delimited(1, _delimited(1, name.encode()) + _delimited(2, feature)))
    return _delimited(1, b"".join(entries))


def layout(record: bytes) -> dict[str, Feature]:
    """Find the features of a record.

    Raises:
        ValueError: the record is no `tf.train.Example`; the message says where and why.
    """
    features: dict[str, Feature] = {}
    for number, start, stop in _message(record, 0, len(record)):
        if number == 1:
            for entry, first, last in _message(record, start, stop):
                if entry == 1:
                    name, feature = _entry(record, first, last)
                    features[name] = feature
    return features


def integers(encoded: Array) -> Array:
    """Decode varints.

    Args:
        encoded: shape `(records, bytes)`, uint8; the varints of all records end at the same places.

    Returns:
        Shape `(records, values)`, int64.

    Raises:
        ValueError: the last one does not end, or one is longer than 64 bits.
    """
    records, size = encoded.shape
    if not size or not records:
        return np.zeros((records, 0), np.int64)
    ends = np.flatnonzero(encoded[0] < 0x80)
    if len(ends) == size:
        return encoded.astype(np.int64)
    if not len(ends) or ends[-1] != size - 1:
        raise ValueError("its last integer does not end")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError(f"an integer has {lengths.max()} bytes; {_LONGEST} are possible")
    values = np.zeros((records, len(ends)), np.uint64)
    for byte in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > byte)
        bits = (encoded[:, starts[longer] + byte] & np.uint8(0x7F)).astype(np.uint64)
        values[:, longer] |= bits << np.uint64(7 * byte)
    return values.view(np.int64)


def structure(record: bytes, features: Mapping[str, Feature]) -> Array:
    """Which bits of a record say how it is laid out, rather than what its values are: a mask; shape `(bytes,)`."""
    mask = np.full(len(record), 0xFF, np.uint8)
    for feature in features.values():
        for start, stop in feature.spans:
            mask[start:stop] = 0x80 if feature.kind == INTEGERS else 0  # whether a varint goes on
    return mask


def _delimited(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | _LENGTH,)) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _entry(record: bytes, start: int, stop: int) -> tuple[str, Feature]:
    name, feature = "", Feature(0, ())
    for number, first, last in _message(record, start, stop):
        if number == 1:
            name = record[first:last].decode()
        elif number == 2:
            for kind, begin, end in _message(record, first, last):
                if kind in KINDS:
                    feature = Feature(kind, _values(record, kind, begin, end))
    return name, feature


def _values(record: bytes, kind: int, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    at = start
    while at < stop:
        key, at = _varint(record, at, stop)
        wire = key & 7
        first, at = _field(record, wire, at, stop)
        if key >> 3 != 1:
            continue
        expected = {BYTES: (_LENGTH,), FLOATS: (_LENGTH, _FOUR), INTEGERS: (_LENGTH, _VARINT)}[kind]
        if wire not in expected or (kind == FLOATS and (at - first) % 4):
            raise ValueError(f"byte {first}: these are no {KINDS[kind]}")
        spans.append((first, at))
    return tuple(spans)


def _message(record: bytes, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Fields of a message that are messages or strings: number, first byte, and the one behind the last."""
    found: list[tuple[int, int, int]] = []
    at = start
    while at < stop:
        key, at = _varint(record, at, stop)
        first, at = _field(record, key & 7, at, stop)
        if key & 7 == _LENGTH:
            found.append((key >> 3, first, at))
    return found


def _field(record: bytes, wire: int, at: int, stop: int) -> tuple[int, int]:
    if wire == _LENGTH:
        size, first = _varint(record, at, stop)
        end = first + size
    elif wire == _VARINT:
        first, (_value, end) = at, _varint(record, at, stop)
    elif wire in (_FOUR, _EIGHT):
        first, end = at, at + (4 if wire == _FOUR else 8)
    else:
        raise ValueError(f"byte {at}: expected a field, found the unknown wire type {wire}")
    if end > stop:
        raise ValueError(f"byte {first}: a field of {end - first} bytes does not fit into its message")
    return first, end


def _varint(record: bytes, at: int, stop: int) -> tuple[int, int]:
    if at < stop and record[at] < 0x80:
        return record[at], at + 1
    value = shift = 0
    for place in range(at, min(stop, at + _LONGEST)):
        byte = record[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError(f"byte {at}: a number does not end")
