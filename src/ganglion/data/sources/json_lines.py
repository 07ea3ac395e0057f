"""JSON lines: every line is an object, whose keys are the fields; parsed by Arrow."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from ganglion.core.errors import DataError
from ganglion.data.files.access import DataFile, open_file
from ganglion.data.records.schema import Schema
from ganglion.data.sources.arrow_columns import arrow_type_of, text_field_of
from ganglion.data.sources.file_source import check_required
from ganglion.data.sources.line_blocks import Spans, blocks, line_ends, line_spans
from ganglion.data.sources.line_source import LineSource

_EMPTY = b" \t\r\n"  # what lines consist of that are none
_TASK = 2**20  # bytes that one thread of Arrow parses
_DIRT = 0.01  # share of lines that may have a key which is no field
_BAD_LINES = 1000  # after which the fields are those found so far


class JsonLinesSource(LineSource, frozen=True, kw_only=True, tag="ganglion.data.sources.json_lines:JsonLinesSource"):
    """Objects in files of JSON lines as records.

    A line that is no object, lacks a value (in fields of floating point it is NaN), has one of another type or shape,
    or a key that is not known is set aside. Empty lines are none.

    Attributes:
        fields: which keys to read, in this order, and as what; others may be there and are not read. Empty for all
            that more than one in 100 lines has, with the types found in the first 4 MiB of the first file: int64,
            float64, bool, text, or sequences of numbers. Arrays of a shape have to be named.
        required: fields in which NaN makes a record bad, such as a label.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(
        kind + compressed for kind in (".jsonl", ".ndjson") for compressed in ("", ".gz", ".bz2", ".xz", ".zst")
    )

    fields: Schema = ()
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in self.fields:
            arrow_type_of(field)
        if self.fields:
            check_required(self.fields, self.required)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Fields in which NaN makes a record bad."""
        return self.required

    def infer(self, file: DataFile) -> Schema:
        """The fields of the objects of a file."""
        if self.fields:
            return self.fields
        with open_file(file.path, decompress=True, retry=self.retry) as opened:
            first = next((block.data for block in blocks(opened, 0, None) if not block.flaw), b"")
        lines = [first[start:stop] for start, stop in line_spans(first, _EMPTY).tolist()]
        if not lines:
            raise DataError(f"{file.path} has no records; its fields cannot be found out. Give them as `fields`.")
        columns = _columns(lines)
        if not columns:
            raise DataError(f"{file.path} has no line that is a JSON object with keys; is this JSON lines?")
        found = tuple(text_field_of(column, file.path) for column in columns)
        check_required(found, self.required)
        return found

    def parser(self, file: str, schema: Schema) -> tuple[int, _Objects]:
        """Objects begin where files begin."""
        wanted = pa.schema([(field.name, arrow_type_of(field)) for field in schema])
        return 0, _Objects(wanted, "ignore" if self.fields else "error")


class _Objects(msgspec.Struct, frozen=True):
    """Objects as tables of `schema`; other keys are `further`: `ignore` or `error`."""

    schema: Any
    further: str

    def table(self, data: bytes) -> pa.Table:
        """A table of objects."""
        _check_text(data)
        options = arrow_json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior=self.further)
        read = arrow_json.ReadOptions(use_threads=len(data) > _TASK, block_size=_size(data))
        # Arrow's own allocator keeps a third more of what parsing JSON takes for a while than the system's does.
        table = arrow_json.read_json(pa.BufferReader(data), read, options, pa.system_memory_pool())
        if len(table) != data.count(b"\n") + (not data.endswith(b"\n")) and len(table) != len(self.spans(data)):
            raise pa.ArrowInvalid("a line is not one JSON object")
        return table

    def spans(self, data: bytes) -> Spans:
        """Where lines lie that are not empty."""
        return line_spans(data, _EMPTY)

    def suspects(self, data: bytes, spans: Spans) -> dict[int, str]:
        """Lines that are no JSON objects, or such as have other keys, or values of other kinds, than the fields."""
        decode = _decoder(self.schema, self.further == "error").decode
        found: dict[int, str] = {}
        for row, (start, stop) in enumerate(spans.tolist()):
            try:
                decode(data[start:stop])
            except (msgspec.DecodeError, UnicodeDecodeError):
                found[row] = ""
        return found


def _check_text(data: bytes) -> None:
    """See that data is text, at which Arrow does not look, without making a copy of it.

    Raises:
        UnicodeDecodeError: it is not; the error says where.
    """
    try:
        offsets = pa.py_buffer(np.array([0, len(data)], np.int32))
        pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        data.decode()


@lru_cache(64)
def _decoder(schema: pa.Schema, closed: bool) -> msgspec.json.Decoder[Any]:
    """What decodes lines that Arrow parses as this schema, and hardly any others."""
    kinds = [(f"field_{number}", _kind(field.type) | None, None) for number, field in enumerate(schema)]
    names = {name: field.name for (name, _, _), field in zip(kinds, schema, strict=True)}
    row = msgspec.defstruct("Row", kinds, rename=names, forbid_unknown_fields=closed, gc=False)
    return msgspec.json.Decoder(row)


def _kind(kind: pa.DataType) -> Any:
    """What a value of an Arrow type is in Python."""
    if pa.types.is_list(kind):
        return list[_kind(kind.value_type) | None]  # type: ignore[misc]  # put together at run time
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        if limits.bits == 64:  # beyond what bounds can say
            return int
        return Annotated[int, msgspec.Meta(ge=int(limits.min), le=int(limits.max))]
    return float if pa.types.is_floating(kind) else bool if pa.types.is_boolean(kind) else str


def _size(data: bytes) -> int:
    """Bytes of a task for a thread; a line must fit into one, and lines longer than half of it are rare."""
    ends = line_ends(data)
    longest = int(max(ends[0], (ends[1:] - ends[:-1]).max(initial=0))) if len(ends) else 0
    return max(_TASK, longest + 1)


def _columns(lines: list[bytes]) -> list[pa.Field]:
    """The columns that lines have together, without keys that hardly any has; what is not JSON is passed over."""
    options = arrow_json.ParseOptions(unexpected_field_behavior="infer")
    found: dict[str, pa.Field] = {}
    given: Counter[str] = Counter()
    waiting = [(0, len(lines))]
    bad = 0
    while waiting and bad < _BAD_LINES:
        start, stop = waiting.pop()
        data = b"".join(lines[start:stop])
        try:
            data.decode()
            read = arrow_json.ReadOptions(block_size=len(data) + 1)
            table = arrow_json.read_json(pa.BufferReader(data), read, options, pa.system_memory_pool())
        except (pa.ArrowException, UnicodeDecodeError):
            bad += stop - start == 1
            if stop - start > 1:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]
            continue
        for column, values in zip(table.schema, table.columns, strict=True):
            known = found.setdefault(column.name, column).type
            wider = pa.types.is_integer(known) and pa.types.is_floating(column.type)
            if wider or pa.types.is_null(known):
                found[column.name] = column
            given[column.name] += len(values) - values.null_count
    return [column for name, column in found.items() if not 0 < given[name] <= _DIRT * len(lines)]
