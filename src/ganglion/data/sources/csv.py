"""Tables in text: CSV and its relatives, as RFC 4180 describes them, parsed by Arrow."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ganglion.core.errors import DataError, suggest
from ganglion.data.files.access import DataFile, open_file
from ganglion.data.files.compression import read_whole
from ganglion.data.records.schema import TEXT, Field, Schema
from ganglion.data.sources.arrow_columns import arrow_type_of, text_field_of
from ganglion.data.sources.csv_rows import CsvRows
from ganglion.data.sources.file_source import check_required, plain_field, select
from ganglion.data.sources.line_blocks import BLOCK, blocks
from ganglion.data.sources.line_source import LineSource

_MARK = b"\xef\xbb\xbf"  # what some programs begin UTF-8 with
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # what UTF-16 begins with
_DIRT = 0.01  # share of the values of a column of numbers that may be none where its type is found out
_NUMBERS = {
    "int64": r"^\s*[+-]?[0-9]{1,18}\s*$",
    "float64": r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$",
}
_TASK = 2**20  # bytes that one thread of Arrow parses


class CsvSource(LineSource, frozen=True, kw_only=True, tag="ganglion.data.sources.csv:CsvSource"):
    """Rows of CSV files as records.

    A row with another number of values, with a value that is not of its column's type, without a value where one is
    needed (everywhere but in columns of floating point, where it is NaN), or with bytes that are no text is set aside.

    Attributes:
        fields: which columns to read, in this order, and as what; empty for all of them with the types found in the
            first 4 MiB of the first file: int64, float64, bool or text. A column is one of numbers if at least 99 of
            100 of its values are. Without a header `fields` name all columns.
        required: columns in which NaN makes a record bad, such as a label.
        delimiter: between values.
        quote: around values that hold delimiters, newlines or, doubled, itself; empty if there is no such sign.
        header: whether files begin with the names of their columns; those of all files have to be the same.
        encoding: of the text; any that has the signs of ASCII where ASCII has them.

    Raises:
        DataError: an option is not possible.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(
        kind + compressed for kind in (".csv", ".tsv") for compressed in ("", ".gz", ".bz2", ".xz", ".zst")
    )

    fields: Schema = ()
    required: tuple[str, ...] = ()
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        for name, sign in (("delimiter", self.delimiter), ("quote", self.quote)):
            if len(sign.encode()) > 1 or sign in ("\n", "\r") or (name == "delimiter" and not sign):
                raise DataError(f"The {name} {sign!r} was given; one ASCII character is possible, not a newline.")
        for field in self.fields:
            arrow_type_of(plain_field(field))
        if self.fields:
            check_required(self.fields, self.required)
        try:
            fitting = '\n",;1a'.encode(self.encoding) == b'\n",;1a'
        except LookupError as error:
            raise DataError(f"The encoding {self.encoding!r} is unknown; utf-8 and latin-1 are two.") from error
        if not fitting:
            raise DataError(f"The encoding {self.encoding} is not an extension of ASCII; convert the files to UTF-8.")

    @property
    def quotes(self) -> bytes:
        """The sign between two of which a newline does not end a record."""
        return self.quote.encode()

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Fields in which NaN makes a record bad."""
        return self.required

    def infer(self, file: DataFile) -> Schema:
        """The fields of the records of a file."""
        if self.fields and not self.header:
            return self.fields
        names, begin = self._beginning(file.path)
        if self.fields:
            known = tuple(Field(name, TEXT) for name in names)
            return select(known, self.fields, file.path)
        with open_file(file.path, decompress=True, retry=self.retry) as opened:
            first = next((block.data for block in blocks(opened, begin, None, self.quotes) if not block.flaw), b"")
        if not first.strip():
            raise DataError(f"{file.path} has no rows; its fields cannot be found out. Give them as `fields`.")
        options = arrow_csv.ParseOptions(**self._rows.format(first), invalid_row_handler=lambda row: "skip")
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(first),
                arrow_csv.ReadOptions(
                    use_threads=False,  # each would hold memory of its own
                    column_names=names or None,
                    autogenerate_column_names=not names,
                    block_size=BLOCK,
                ),
                options,
            )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{file.path} is not a table of {self.delimiter!r}-separated values: {error}.") from error
        found = tuple(_field(column, table.column(column.name), file.path) for column in table.schema)
        check_required(found, self.required)
        return found

    def parser(self, file: str, schema: Schema) -> tuple[int, CsvRows]:
        """Where the first row of a file begins, and what parses rows."""
        names, begin = self._beginning(file)
        if not self.header:
            names = [field.name for field in schema]
        wanted = [field.name for field in schema]
        if missing := [name for name in wanted if name not in names]:
            raise DataError(f"{file} has no column {missing[0]!r}. {suggest(missing[0], names)}")
        if not self.fields and (further := [name for name in names if name not in wanted]):
            raise DataError(f"{file} has the column {further[0]!r}, which the first file does not; name the `fields`.")
        rows = msgspec.structs.replace(self._rows, names=tuple(names), schema=schema)
        return begin, rows

    @property
    def _rows(self) -> CsvRows:
        return CsvRows(delimiter=self.delimiter, quote=self.quote, encoding=self.encoding)

    def _beginning(self, file: str) -> tuple[list[str], int]:
        """The names of the columns of a file, and where its first row begins."""
        with open_file(file, decompress=True, retry=self.retry) as opened:
            mark = opened.read(len(_MARK))
            begin = len(_MARK) if mark == _MARK else 0
            if mark[:2] in _WIDE:
                raise DataError(f"{file} is UTF-16 from byte 0 on; convert it to UTF-8.")
            if not self.header:
                return [], begin
            opened.seek(begin)
            data, _ = read_whole(opened, _TASK)
        found = self._rows.first(data)
        if found is None:
            raise DataError(f"{file} has no header; expected the names of columns.")
        try:
            text = data[slice(*found)].decode(self.encoding)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: at byte {begin + found[0] + error.start}: not {self.encoding}.") from error
        if self.quote:
            reader = csv.reader(io.StringIO(text), delimiter=self.delimiter, quotechar=self.quote)
        else:
            reader = csv.reader(io.StringIO(text), delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        try:
            names = next(reader)
        except csv.Error as error:
            raise DataError(f"{file} has no header that can be read: {error}.") from error
        if len(set(names)) < len(names):
            raise DataError(f"{file} names a column twice: {', '.join(names)}.")
        return names, begin + found[1]


def _field(column: pa.Field, values: pa.ChunkedArray, file: str) -> Field:
    """The field of a column; one that looks like text because of a few values that are dirt is one of numbers."""
    found = text_field_of(column, file)
    if found.dtype != TEXT or not pa.types.is_string(values.type):
        return found
    given = values.filter(pc.not_equal(pc.utf8_trim_whitespace(values), ""))
    for dtype, pattern in _NUMBERS.items():
        right = pc.sum(pc.match_substring_regex(given, pattern)).as_py() or 0
        if right and len(given) - right <= _DIRT * len(given):
            return Field(column.name, dtype)
    return found
