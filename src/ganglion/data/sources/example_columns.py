"""From `tf.train.Example` records to columns: records that are laid out alike are read as one array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array, Column, Columns, join, take
from ganglion.data.records.schema import BYTES as BYTE_STRINGS
from ganglion.data.records.schema import TEXT, Field, Schema
from ganglion.data.sources.example import BYTES, FLOATS, INTEGERS, KINDS, Feature, integers, layout, structure
from ganglion.data.sources.tfrecord_frames import Frames

_ALIKE = 4
"""Records that are laid out alike and are worth being read as one array."""

_LAYOUTS = 4
"""Layouts with fewer records that are met among records of one length before the others are read one by one."""

_Rows = npt.NDArray[np.int64]
Problems = dict[int, str]
"""What is wrong with records that cannot be used, by their number."""


def infer_fields(records: Iterable[bytes]) -> Schema:
    """The fields of some records.

    A feature with one value in each record becomes a single value, one with equally many a vector, one whose number of
    values differs a sequence. Byte strings become `bytes`.

    Raises:
        DataError: there is no record, a record is no `tf.train.Example`, or a feature cannot be a field; the message
            says which and what to do.
    """
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    number = -1
    for number, record in enumerate(records):
        try:
            features = _layout(record)
        except ValueError as error:
            raise DataError(
                f"Record {number}: {error}; to read records as they are, give the format 'bytes'."
            ) from error
        for name, feature in features.items():
            if feature.kind:
                found[name].append((feature.kind, _count(record, feature)))
    if number < 0:
        raise DataError("There is no record to infer fields from; give the fields.")
    return tuple(_infer(name, seen) for name, seen in sorted(found.items()))


def read_examples(frames: Frames, fields: Schema, fill: Mapping[str, Any]) -> tuple[Columns, _Rows, Problems]:
    """Columns of the records that have all fields.

    Args:
        frames: the records.
        fields: of the result. A field of numbers may also be a byte string of exactly its bytes, little-endian.
        fill: by name, what stands for a missing feature.

    Returns:
        The columns, the numbers in `frames` of the records in them, and the problems of the others.
    """
    reader = _Reader(frames, fields, fill)
    reader.read()
    return reader.result()


class _Reader:
    """Pieces of columns with the numbers of their records, in the order in which they were read."""

    def __init__(self, frames: Frames, fields: Schema, fill: Mapping[str, Any]) -> None:
        self._frames = frames
        self._fields = fields
        self._fill = fill
        self._pieces: list[Columns] = []
        self._rows: list[_Rows] = []
        self._singles: list[tuple[int, list[Any]]] = []
        self._problems: Problems = {}

    def read(self) -> None:
        lengths = self._frames.lengths
        order = np.argsort(lengths, kind="stable")
        cuts = np.flatnonzero(np.diff(lengths[order])) + 1
        for rows in np.split(order, cuts):
            self._read_length(rows)

    def result(self) -> tuple[Columns, _Rows, Problems]:
        if self._singles:
            rows = np.array([row for row, _values in self._singles], np.int64)
            columns = {
                field.name: _column(field, [values[at] for _row, values in self._singles])
                for at, field in enumerate(self._fields)
            }
            self._pieces.append(columns)
            self._rows.append(rows)
        if not self._pieces:
            return {field.name: field.empty() for field in self._fields}, np.zeros(0, np.int64), self._problems
        rows = np.concatenate(self._rows)
        columns = join(self._pieces)
        order = np.argsort(rows, kind="stable")
        if (np.diff(rows) < 0).any():
            columns = take(columns, order)
        return columns, rows[order], self._problems

    def _read_length(self, rows: _Rows) -> None:
        """Read records of the same length."""
        missed = 0
        while len(rows) >= _ALIKE and missed < _LAYOUTS:
            record = self._frames.record(rows[0])
            try:
                features = _layout(record)
            except ValueError as error:
                self._problems[int(rows[0])] = str(error)
                rows = rows[1:]
                missed += 1
                continue
            matrix = self._matrix(rows)
            mask = structure(record, features)
            places = np.flatnonzero(mask)
            alike = ~((matrix[:, places] ^ matrix[0, places]) & mask[places]).any(axis=1)
            if (count := np.count_nonzero(alike)) < _ALIKE:
                missed += 1
                self._read_singles(rows[alike])
            else:
                self._read_alike(rows[alike], matrix if count == len(rows) else matrix[alike], features)
            rows = rows[~alike]
        self._read_singles(rows)

    def _read_alike(self, rows: _Rows, matrix: Array, features: Mapping[str, Feature]) -> None:
        piece: Columns = {}
        try:
            for field in self._fields:
                feature = features.get(field.name)
                if feature is None or not feature.kind:
                    piece[field.name] = _column(field, [self._filled(field)] * len(rows))
                else:
                    piece[field.name] = _values_alike(field, feature, matrix)
        except ValueError:
            self._read_singles(rows)  # not all of them may be bad, and each has its reason
            return
        self._pieces.append(piece)
        self._rows.append(rows)

    def _read_singles(self, rows: _Rows) -> None:
        for row in rows.tolist():
            record = self._frames.record(row)
            try:
                features = _layout(record)
                values = []
                for field in self._fields:
                    feature = features.get(field.name)
                    if feature is None or not feature.kind:
                        values.append(self._filled(field))
                    else:
                        values.append(_value(field, feature, record))
            except ValueError as error:
                self._problems[row] = str(error)
            else:
                self._singles.append((row, values))

    def _filled(self, field: Field) -> Any:
        if field.name not in self._fill:
            raise ValueError(f"it has no feature {field.name!r}")
        value = self._fill[field.name]
        return np.broadcast_to(np.asarray(value, field.dtype), field.shape) if field.fixed else value

    def _matrix(self, rows: _Rows) -> Array:
        """Records of the same length; shape `(records, bytes)`."""
        data, length = self._frames.data, int(self._frames.lengths[rows[0]])
        starts = self._frames.starts[rows]
        gaps = np.unique(np.diff(starts))
        if len(gaps) == 1 and length:
            stop = int(starts[-1]) + length
            values = np.frombuffer(data, np.uint8, stop - int(starts[0]), int(starts[0]))
            return np.lib.stride_tricks.as_strided(values, (len(rows), length), (int(gaps[0]), 1), writeable=False)
        joined = b"".join([data[start : start + length] for start in starts.tolist()])
        return np.frombuffer(joined, np.uint8).reshape(len(rows), length)


def _layout(record: bytes) -> dict[str, Feature]:
    try:
        return layout(record)
    except ValueError as error:
        raise ValueError(f"it is no tf.train.Example: {error}") from error


def _values_alike(field: Field, feature: Feature, matrix: Array) -> Column:
    """The values of one feature of records that are laid out alike."""
    if feature.kind == BYTES:
        start, stop = _single(field, feature)
        values = np.ascontiguousarray(matrix[:, start:stop])
        if field.fixed:
            return _raw(field, values)
        return _strings(field, values)
    spans = [matrix[:, start:stop] for start, stop in feature.spans]
    encoded = np.concatenate(spans, axis=1) if len(spans) != 1 else spans[0]
    return _numbers(field, _decoded(feature.kind, encoded))


def _value(field: Field, feature: Feature, record: bytes) -> Any:
    if feature.kind == BYTES:
        start, stop = _single(field, feature)
        value = record[start:stop]
        if field.fixed:
            return _raw(field, np.frombuffer(value, np.uint8)[None])[0]
        if field.dtype == TEXT:
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{field.name!r} is not UTF-8: {error}") from error
        return value
    encoded = b"".join([record[start:stop] for start, stop in feature.spans])
    return _vector(field, _decoded(feature.kind, np.frombuffer(encoded, np.uint8)[None]))[0]


def _decoded(kind: int, encoded: Array) -> Array:
    return integers(encoded) if kind == INTEGERS else np.ascontiguousarray(encoded).view("<f4")


def _single(field: Field, feature: Feature) -> tuple[int, int]:
    if field.sequence:
        raise ValueError(f"{field.name!r} holds byte strings; expected a sequence of {field.dtype}")
    if len(feature.spans) != 1:
        raise ValueError(f"{field.name!r} holds {len(feature.spans)} byte strings; expected 1")
    return feature.spans[0]


def _raw(field: Field, values: Array) -> Array:
    if values.shape[1] != field.record_bytes:
        raise ValueError(f"{field.name!r} holds {values.shape[1]} bytes; {field} takes {field.record_bytes}")
    dtype = np.dtype(field.dtype)
    return values.view(dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(len(values), *field.shape)


def _vector(field: Field, values: Array) -> Array:
    """Numbers as those of the field; shape `(records, values)` for a sequence, else `(records, *shape)`."""
    if field.dtype in (TEXT, BYTE_STRINGS):
        raise ValueError(f"{field.name!r} holds numbers; expected {field.dtype}")
    if field.sequence and not values.size:
        return np.zeros((len(values), 0), field.dtype)
    if not field.sequence and values.shape[1] != (expected := int(np.prod(field.shape, dtype=np.int64))):
        raise ValueError(f"{field.name!r} has {values.shape[1]} values; expected {expected}")
    with np.errstate(all="ignore"):
        result = values.astype(field.dtype)
    if values.dtype.kind == "i" and not np.array_equal(result.astype(np.int64), values):
        raise ValueError(f"{field.name!r} has values that {field.dtype} cannot hold")
    if values.dtype.kind == "f" and result.dtype.kind not in "fc":
        raise ValueError(f"{field.name!r} holds floats; expected {field.dtype}")
    return result if field.sequence else result.reshape(len(values), *field.shape)


def _numbers(field: Field, values: Array) -> Column:
    vector = _vector(field, values)
    if not field.sequence:
        return vector
    import pyarrow as pa

    offsets = np.arange(len(vector) + 1, dtype=np.int64) * vector.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.ascontiguousarray(vector).reshape(-1)))


def _strings(field: Field, values: Array) -> Column:
    import pyarrow as pa

    offsets = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
    if offsets[-1] >= 2**31:
        raise ValueError("too many bytes for one array")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(values)]
    strings = pa.Array.from_buffers(pa.binary(), len(values), buffers)
    return strings.cast(pa.string()) if field.dtype == TEXT else strings  # the cast refuses what is not UTF-8


def _column(field: Field, values: Sequence[Any]) -> Column:
    if field.fixed:
        return np.stack(values) if values else field.empty()
    import pyarrow as pa

    return pa.array(values, field.arrow_type)


def _count(record: bytes, feature: Feature) -> int:
    if feature.kind == BYTES:
        return len(feature.spans)
    if feature.kind == FLOATS:
        return sum(stop - start for start, stop in feature.spans) // 4
    return sum(byte < 0x80 for start, stop in feature.spans for byte in record[start:stop])


def _infer(name: str, seen: list[tuple[int, int]]) -> Field:
    kinds = {kind for kind, count in seen if count} or {kind for kind, _count in seen}  # no values have no kind
    counts = {count for _kind, count in seen}
    if len(kinds) > 1:
        raise DataError(
            f"The feature {name!r} holds {' and '.join(KINDS[kind] for kind in sorted(kinds))}; give the fields."
        )
    kind = kinds.pop()
    if kind == BYTES:
        if counts != {1}:
            raise DataError(
                f"The feature {name!r} holds {', '.join(map(str, sorted(counts)))} byte strings to a record; 1 is "
                "possible. Give the fields, without it."
            )
        return Field(name, BYTE_STRINGS)
    dtype = "float32" if kind == FLOATS else "int64"
    if len(counts) > 1:
        return Field(name, dtype, sequence=True)
    count = counts.pop()
    return Field(name, dtype, () if count == 1 else (count,))
