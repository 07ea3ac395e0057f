"""Rows of CSV: where they lie in some bytes, their values as Arrow parses them, and which of them may be broken."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ganglion.data.records.schema import Field, Schema
from ganglion.data.sources.arrow_columns import arrow_type_of
from ganglion.data.sources.line_blocks import Spans, joined, line_spans

_TASK = 2**20  # bytes that Arrow parses at a time
_TOGETHER = 16  # rows of which it is asked at a time whether they are text
_SHOWN = 100  # signs of a row that Arrow shows
_COLUMN = re.compile(r"In CSV column #([0-9]+): ")
_NULLS = frozenset(arrow_csv.ConvertOptions().null_values)
_FLOAT = r"^(-?[0-9]+\.?[0-9]*([eE][-+]?[0-9]{1,2})?)?$"


class CsvRows(msgspec.Struct, frozen=True, kw_only=True):
    """How rows are written.

    Attributes:
        delimiter: between values.
        quote: around values; empty if there is no such sign.
        encoding: of the text.
        names: of the columns of the file, in order.
        schema: what is read of them.
    """

    delimiter: str
    quote: str
    encoding: str
    names: tuple[str, ...] = ()
    schema: Schema = ()

    def table(self, data: bytes) -> pa.Table:
        """Parse rows.

        Raises:
            UnicodeDecodeError: some bytes are no text.
            pyarrow.ArrowInvalid: a row is broken.
        """
        types = {field.name: arrow_type_of(field) for field in self.schema}
        return self._read(data, types, arrow_csv.ParseOptions(**self.format(data)))

    def suspects(self, data: bytes, spans: Spans) -> dict[int, str | UnicodeDecodeError]:
        """Rows with another number of values, with bytes that are no text, or with numbers that are none.

        Args:
            data: in which some row is broken.
            spans: where rows lie.

        Returns:
            By the number of a row what is wrong with it, as is found out of a row alone; empty where it has to be
            tried. No row where it cannot be found out in this way.
        """
        found: dict[int, str | UnicodeDecodeError] = {}
        if self._no_text(data):
            # Arrow does not look at the text of columns that are not read, so that such rows have to be tried.
            sure = codecs.lookup(self.encoding).name == "utf-8" and len(self.schema) == len(self.names)
            for first in range(0, len(spans), _TOGETHER):
                rows = spans[first : first + _TOGETHER].tolist()
                if self._no_text(data[rows[0][0] : rows[-1][1]]):
                    for row, (start, stop) in enumerate(rows, first):
                        if error := self._no_text(data[start:stop]):
                            found[row] = error if sure else ""
        if self.quote and (mark := self.quote.encode()) in data:
            found |= {row: "" for row, (start, stop) in enumerate(spans.tolist()) if data.count(mark, start, stop) % 2}
        others = np.delete(np.arange(len(spans)), sorted(found))
        if not len(others):
            return found
        wrong: dict[int, str] = {}
        table = self._tolerant(joined(data, spans, others), wrong)
        if table is None or len(table) + len(wrong) != len(others):
            return {}
        found |= {int(others[row]): problem for row, problem in wrong.items()}
        parsed = np.delete(others, sorted(wrong))
        for field in self.schema:
            if field.fixed and pa.types.is_string((column := table.column(field.name)).type):
                unsure = np.flatnonzero(~pc.match_substring_regex(column, _sure(field.dtype)).to_numpy())
                for row, value in zip(parsed[unsure].tolist(), column.take(pa.array(unsure)).to_pylist(), strict=True):
                    if (problem := self._problem(field, value)) is not None:
                        found.setdefault(row, problem)
        return found

    def spans(self, data: bytes) -> Spans:
        """Where rows lie; empty lines are none."""
        if self._is_quoted(data) or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
            return np.array(list(self._found(data)), np.int64).reshape(-1, 2)
        return line_spans(data, b"\r\n")

    def first(self, data: bytes) -> tuple[int, int] | None:
        """Where the first row lies, if there is one."""
        return next(self._found(data), None)

    def format(self, data: bytes) -> dict[str, Any]:
        """Options of Arrow for some rows."""
        quoted = self._is_quoted(data)
        return {"delimiter": self.delimiter, "quote_char": self.quote or False, "newlines_in_values": quoted}

    def _read(self, data: bytes, types: dict[str, pa.DataType], options: Any) -> pa.Table:
        if self._is_quoted(data) and data.count(self.quote.encode()) % 2:  # Arrow takes all that follows for one value
            raise pa.ArrowInvalid("a quote is not closed")
        convert = arrow_csv.ConvertOptions(column_types=types, include_columns=list(types))
        for size in (_TASK, len(data) + 1):
            read = arrow_csv.ReadOptions(
                use_threads=False,  # units are read at once; here, each thread would hold memory of its own
                column_names=self.names,
                block_size=size,
                encoding=self.encoding,
            )
            try:
                return arrow_csv.read_csv(pa.BufferReader(data), read, options, convert)
            except pa.ArrowInvalid as error:
                data.decode(self.encoding)  # says where, if it is this
                if "straddling" not in str(error) or size > len(data):  # a row larger than a task
                    raise
        raise AssertionError("unreachable: the second size holds every row")

    def _is_quoted(self, data: bytes) -> bool:
        return bool(self.quote) and self.quote.encode() in data

    def _found(self, data: bytes) -> Iterator[tuple[int, int]]:
        for match in _row(self.delimiter, self.quote).finditer(data):
            if match[0].strip(b"\r\n"):
                yield match.span()

    def _tolerant(self, data: bytes, wrong: dict[int, str]) -> pa.Table | None:
        """Parse rows, columns with values that are not of their type as text; none where that does not help.

        Args:
            data: rows without empty lines.
            wrong: receives the rows with another number of values, which are left out, and what Arrow says of them.
        """

        def note(row: Any) -> str:
            text = row.text if len(row.text) <= _SHOWN else f"{row.text[: _SHOWN - 4]} ..."
            problem = f"Expected {row.expected_columns} columns, got {row.actual_columns}: {text}".rstrip(" .")
            plain = text.isascii() and text.isprintable()  # else Arrow may say it in other signs
            wrong[row.number - 1] = f"CSV parse error: Row #1: {problem}" if plain and b"\r" not in data else ""
            return "skip"

        options = arrow_csv.ParseOptions(**self.format(data), invalid_row_handler=note)
        types = {field.name: arrow_type_of(field) for field in self.schema}
        while True:
            wrong.clear()
            try:
                return self._read(data, types, options)
            except UnicodeDecodeError:
                return None
            except pa.ArrowException as error:
                told = _COLUMN.match(str(error))
                name = self.names[int(told[1])] if told else ""
                if types.get(name, pa.string()) == pa.string():
                    return None
                types[name] = pa.string()

    def _problem(self, field: Field, value: str) -> str | None:
        """What Arrow says of a row with this value in it: nothing, or in empty words if it has to be asked."""
        kind = arrow_type_of(field)
        if value in _NULLS:
            return None
        if pa.types.is_boolean(kind) or not (value.isascii() and value.isprintable()):
            return ""
        try:
            pa.scalar(value.strip(" \t")).cast(kind)  # by the same code that parses rows
        except pa.ArrowInvalid:
            return (
                f"In CSV column #{self.names.index(field.name)}: Row #1: "
                f"CSV conversion error to {kind}: invalid value '{value}'"
            )
        return None

    def _no_text(self, data: bytes) -> UnicodeDecodeError | None:
        """Why some bytes are no text."""
        try:
            data.decode(self.encoding)
        except UnicodeDecodeError as error:
            return error
        return None


def _sure(dtype: str) -> str:
    """What a value looks like that is one of this type in any case; others may be."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return _FLOAT
    if kind.kind == "b":
        return "^(true|false|0|1)$"
    digits = len(str(np.iinfo(kind).max)) - 1
    return f"^{'-?' if kind.kind == 'i' else ''}[0-9]{{1,{digits}}}$"


@lru_cache(16)
def _row(delimiter: str, quote: str) -> re.Pattern[bytes]:
    """A row as Arrow delimits it: a quote counts as such where a value begins with it."""
    sign, mark = re.escape(delimiter).encode(), re.escape(quote).encode()
    value = b"[^%b\\r\\n]*+" % sign
    if mark:
        value = b"(?:%b(?:[^%b]++|%b%b)*+%b%b|%b)" % (mark, mark, mark, mark, mark, value, value)
    return re.compile(b"%b(?:%b%b)*+(?:\\r\\n|\\n|\\r|\\Z)" % (value, sign, value))
