"""Rows of CSV: where they lie in some bytes, their values as Arrow parses them, and which of them may be broken."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ganglion.data.records.schema import Schema
from ganglion.data.sources.arrow_columns import arrow_type_of

_TASK = 2**20  # bytes that one thread of Arrow parses
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
        return self._read(data, types, arrow_csv.ParseOptions(**self.format(data)), threads=True)

    def suspects(self, data: bytes, spans: list[tuple[int, int]]) -> list[int]:
        """Rows with another number of values, with bytes that are no text, or with numbers that may not be such.

        Args:
            data: in which some row is broken.
            spans: where rows lie.

        Returns:
            Numbers of rows, in order; none where it cannot be found out in this way.
        """
        found: set[int] = set()
        if not self._is_text(data):
            found = {row for row, (start, stop) in enumerate(spans) if not self._is_text(data[start:stop])}
        if self.quote and self.quote.encode() in data:
            mark = self.quote.encode()
            found |= {row for row, (start, stop) in enumerate(spans) if data.count(mark, start, stop) % 2}
        rows = [row for row in range(len(spans)) if row not in found]
        wrong: list[int] = []

        def note(row: Any) -> str:
            wrong.append(row.number - 1)
            return "skip"

        text = b"".join([data[spans[row][0] : spans[row][1]] for row in rows])
        options = arrow_csv.ParseOptions(**self.format(text), invalid_row_handler=note)
        try:
            table = self._read(text, {field.name: pa.string() for field in self.schema}, options, threads=False)
        except (pa.ArrowException, UnicodeDecodeError):
            return []
        if len(table) + len(wrong) != len(rows):
            return []
        found |= {rows[row] for row in wrong}
        parsed = np.delete(np.array(rows), wrong)
        for field in self.schema:
            if field.fixed:
                sure = pc.match_substring_regex(table.column(field.name), _sure(field.dtype))
                found |= set(parsed[~sure.to_numpy()].tolist())
        return sorted(found)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where rows lie; empty lines are none."""
        return [match.span() for match in _row(self.delimiter, self.quote).finditer(data) if match[0].strip(b"\r\n")]

    def format(self, data: bytes) -> dict[str, Any]:
        """Options of Arrow for some rows."""
        quotes = bool(self.quote) and self.quote.encode() in data
        return {"delimiter": self.delimiter, "quote_char": self.quote or False, "newlines_in_values": quotes}

    def _read(self, data: bytes, types: dict[str, pa.DataType], options: Any, *, threads: bool) -> pa.Table:
        if self.quote and data.count(self.quote.encode()) % 2:  # Arrow takes all that follows for one value
            raise pa.ArrowInvalid("a quote is not closed")
        convert = arrow_csv.ConvertOptions(column_types=types, include_columns=list(types))
        for size in (_TASK, len(data) + 1):
            read = arrow_csv.ReadOptions(
                use_threads=threads and len(data) > _TASK,  # starting them takes longer than parsing a few rows
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

    def _is_text(self, data: bytes) -> bool:
        try:
            data.decode(self.encoding)
        except UnicodeDecodeError:
            return False
        return True


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
