"""Text files: every line is a record."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ganglion.data.files.access import DataFile
from ganglion.data.records.schema import TEXT, Field, Schema
from ganglion.data.sources.line_blocks import Spans, line_spans
from ganglion.data.sources.line_source import LineSource


class TextSource(LineSource, frozen=True, kw_only=True, tag="ganglion.data.sources.text:TextSource"):
    """Lines of text files in UTF-8, without their ends, as records; empty lines too.

    A line that is not UTF-8 is set aside.

    Attributes:
        name: of the only field.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(
        f".txt{compressed}" for compressed in ("", ".gz", ".bz2", ".xz", ".zst")
    )

    name: str = "text"

    def infer(self, file: DataFile) -> Schema:
        """The field of text."""
        return (Field(self.name, TEXT),)

    def parser(self, file: str, schema: Schema) -> tuple[int, _Lines]:
        """Lines begin where files begin."""
        return 0, _Lines(self.name)


class _Lines(msgspec.Struct, frozen=True):
    """Lines as the column `name`."""

    name: str

    def spans(self, data: bytes) -> Spans:
        """Where lines lie."""
        return line_spans(data)

    def table(self, data: bytes) -> pa.Table:
        """A table of lines."""
        data.decode()  # says where it is no text
        whole = data[:-1] if data.endswith(b"\n") else data
        lines = pc.split_pattern(pa.array([whole], pa.binary()).cast(pa.string()), "\n").flatten()
        if b"\r" in whole:
            lines = pc.replace_substring_regex(lines, "\r$", "")
        return pa.table({self.name: lines})

    def suspects(self, data: bytes, spans: Spans) -> dict[int, str]:
        """Lines that are no text."""
        return {row: "" for row, (start, stop) in enumerate(spans.tolist()) if not _is_text(data[start:stop])}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
