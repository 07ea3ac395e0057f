"""JSON lines: every line is an object, whose keys are the fields; parsed by Arrow."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import msgspec
import pyarrow as pa
from pyarrow import json as arrow_json

from ganglion.core.errors import DataError
from ganglion.data.files.access import DataFile, open_file
from ganglion.data.records.schema import Schema
from ganglion.data.sources.arrow_columns import arrow_type_of, text_field_of
from ganglion.data.sources.file_source import check_required
from ganglion.data.sources.line_blocks import blocks, line_ends
from ganglion.data.sources.line_source import LineSource, Span

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
        lines = [first[start:stop] for start, stop in _spans(first)]
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
        data.decode()  # says where it is no text; Arrow does not look
        options = arrow_json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior=self.further)
        read = arrow_json.ReadOptions(use_threads=len(data) > _TASK, block_size=_size(data))
        table = arrow_json.read_json(pa.BufferReader(data), read, options)
        if len(table) != data.count(b"\n") + (not data.endswith(b"\n")) and len(table) != len(_spans(data)):
            raise pa.ArrowInvalid("a line is not one JSON object")
        return table

    def spans(self, data: bytes) -> list[Span]:
        """Where lines lie that are not empty."""
        return _spans(data)

    def suspects(self, data: bytes, spans: list[Span]) -> list[int]:
        """Lines that are not JSON, or objects with a key or a kind of value that few have."""
        kinds: list[str] = []
        for start, stop in spans:
            try:
                found = msgspec.json.decode(data[start:stop])
            except (msgspec.DecodeError, UnicodeDecodeError):
                found = None
            fields = sorted(found.items()) if isinstance(found, dict) else []
            kinds.append(", ".join(f"{name} {type(value).__name__}" for name, value in fields))
        common = {kind for kind, count in Counter(kinds).items() if kind and count > _DIRT * len(spans)}
        return [number for number, kind in enumerate(kinds) if kind not in common]


def _spans(data: bytes) -> list[Span]:
    ends = line_ends(data).tolist()
    return [(start, stop) for start, stop in zip([0, *ends], ends, strict=False) if data[start:stop].strip(b" \t\r\n")]


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
            table = arrow_json.read_json(pa.BufferReader(data), read, options)
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
