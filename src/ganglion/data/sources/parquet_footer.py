"""The footer of a Parquet file: where the columns of each row group lie, and what is known of them.

It is a struct in Thrift's compact protocol (Apache Parquet, `parquet.thrift`, `FileMetaData`) without a checksum. But
it says many things twice, and these are compared, before a library that trusts it is given the file.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.files.access import open_file
from ganglion.data.files.retry import Retry
from ganglion.data.sources.thrift import Struct, number_in, read_struct

ENCODINGS = {
    0: "PLAIN",
    2: "PLAIN_DICTIONARY",
    3: "RLE",
    4: "BIT_PACKED",
    5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY",
    7: "DELTA_BYTE_ARRAY",
    8: "RLE_DICTIONARY",
    9: "BYTE_STREAM_SPLIT",
}
_MAGIC = b"PAR1"
_TRAILER = 8
_CACHED = 16
_PLAIN_CODEC = 0
_OPTIONAL, _REPEATED = 1, 2


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a row group, as the footer of the file describes it.

    Attributes:
        name: of the column.
        start: offset of its first page.
        stop: offset behind its last page.
        values: how many values it has, nulls counted.
        rows: how many records the row group has.
        size: bytes of its pages when they are not compressed.
        repetition: the highest repetition level; 0 where each record has one value.
        definition: the highest definition level; 0 where nothing may be null.
        compressed: whether bodies are.
        encodings: of its pages.
        nulls: how many of the values are null, if that is said.
    """

    name: str
    start: int
    stop: int
    values: int
    rows: int
    size: int
    repetition: int
    definition: int
    compressed: bool
    encodings: tuple[str, ...]
    nulls: int | None

    @property
    def flat(self) -> bool:
        """Whether each record has one value."""
        return not self.repetition


class RowGroupFooter(msgspec.Struct, frozen=True):
    """What the footer says of a row group.

    Attributes:
        rows: how many records it has.
        chunks: its columns by name.
    """

    rows: int
    chunks: dict[str, Chunk]


class Footer(msgspec.Struct, frozen=True):
    """What the footer of a file says.

    Attributes:
        start: its offset in the file.
        groups: the row groups.
    """

    start: int
    groups: tuple[RowGroupFooter, ...]


def read_footer(path: str, fingerprint: str, retry: Retry) -> Footer:
    """Read the footer of a file, or remember it.

    Args:
        path: of the file.
        fingerprint: of the file; what has none is not remembered.
        retry: how long a file elsewhere is waited for.

    Raises:
        DataError: the file is no Parquet file, or its footer is damaged.
        OutageError: it is away.
    """
    return _remembered(path, fingerprint, retry) if fingerprint else _read(path, retry)


@lru_cache(_CACHED)
def _remembered(path: str, fingerprint: str, retry: Retry) -> Footer:
    del fingerprint  # it tells apart what was at this path at different times
    return _read(path, retry)


def _read(path: str, retry: Retry) -> Footer:
    with open_file(path, retry=retry) as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - _TRAILER))
        trailer = file.read(_TRAILER)
        size = int.from_bytes(trailer[:4], "little")
        if trailer[4:] != _MAGIC or size > end - _TRAILER - len(_MAGIC):
            raise DataError(f"{path} cannot be read as Parquet: it does not end as such a file, or is encrypted.")
        start = end - _TRAILER - size
        file.seek(start)
        data = file.read(size)
    try:
        return _footer(read_struct(data, 0)[0], start)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read as Parquet: its footer is damaged: {error}.") from error


def _footer(fields: Struct, start: int) -> Footer:
    leaves = _leaves(_structs(fields, 2))
    groups = tuple(_group(group, leaves) for group in _structs(fields, 4))
    if (rows := sum(group.rows for group in groups)) != number_in(fields, 3):
        raise ValueError(f"row groups of {rows} records in a file of {number_in(fields, 3)}")
    spans = [(4, 4), (start, start)]
    spans += [(chunk.start, chunk.stop) for group in groups if group.rows for chunk in group.chunks.values()]
    spans.sort()
    if (
        spans[0] != (4, 4)
        or spans[-1] != (start, start)
        or any(stop > begin for (_, stop), (begin, _) in pairwise(spans))
    ):
        raise ValueError("its columns overlap")
    return Footer(start, groups)


class _Leaf(msgspec.Struct, frozen=True):
    """A column as the schema describes it: a path, a physical type, and the highest levels."""

    path: tuple[bytes, ...]
    type: int
    repetition: int
    definition: int


def _leaves(elements: list[Struct]) -> list[_Leaf]:
    found: list[_Leaf] = []
    rest = iter(elements)

    def visit(path: tuple[bytes, ...], repetition: int, definition: int, children: int) -> None:
        for _ in range(children):
            element = next(rest, None)
            if element is None:
                raise ValueError("its schema ends early")
            name = element.get(4)
            if not isinstance(name, bytes) or len(path) > 16:
                raise ValueError(f"a column has the name {name!r}")
            kind = element.get(3)
            levels = repetition + (kind == _REPEATED), definition + (kind in (_OPTIONAL, _REPEATED))
            if element.get(5):
                visit((*path, name), *levels, number_in(element, 5))
            else:
                found.append(_Leaf((*path, name), number_in(element, 1), *levels))

    root = next(rest, None)
    if root is None:
        raise ValueError("it has no schema")
    visit((), 0, 0, number_in(root, 5) if 5 in root else 0)
    if next(rest, None) is not None:
        raise ValueError("its schema goes on behind its end")
    return found


def _group(fields: Struct, leaves: list[_Leaf]) -> RowGroupFooter:
    rows, columns = number_in(fields, 3), _structs(fields, 1)
    if len(columns) != len(leaves):
        raise ValueError(f"a row group has {len(columns)} columns, and the schema {len(leaves)}")
    chunks = [_chunk(column, leaf, rows) for column, leaf in zip(columns, leaves, strict=True)]
    return RowGroupFooter(rows, {chunk.name: chunk for chunk in chunks})


def _chunk(fields: Struct, leaf: _Leaf, rows: int) -> Chunk:
    details, name = fields.get(3), leaf.path[0].decode()
    if not isinstance(details, dict) or fields.get(1):
        raise ValueError(f"the column {name!r} is encrypted, or in another file")
    if details.get(3) != list(leaf.path) or details.get(1) != leaf.type:
        raise ValueError(
            f"the column {name!r} is another one in a row group, {details.get(3)} of type {details.get(1)}"
        )
    values = number_in(details, 5)
    if not leaf.repetition and values != rows:
        raise ValueError(f"{rows} records have {values} values of {name!r}")
    start = number_in(details, 9)
    if details.get(11):
        start = min(start, number_in(details, 11))
    encodings = _list(details, 2)
    statistics = details.get(12)
    nulls = statistics.get(3) if isinstance(statistics, dict) else None
    return Chunk(
        name=name if leaf.repetition or len(leaf.path) == 1 else ".".join(part.decode() for part in leaf.path),
        start=start,
        stop=start + number_in(details, 7),
        values=values,
        rows=rows,
        size=number_in(details, 6),
        repetition=leaf.repetition,
        definition=leaf.definition,
        compressed=number_in(details, 4) != _PLAIN_CODEC,
        encodings=tuple(ENCODINGS.get(encoding, "unknown") for encoding in encodings if isinstance(encoding, int)),
        nulls=nulls if leaf.definition else 0,
    )


def _structs(fields: Struct, field: int) -> list[Struct]:
    values = _list(fields, field)
    if not all(isinstance(value, dict) for value in values):
        raise ValueError(f"its field {field} holds something else than structs")
    return values


def _list(fields: Struct, field: int) -> list[Any]:
    values = fields.get(field)
    if not isinstance(values, list):
        raise ValueError(f"its field {field} is {values!r}; a list is needed")
    return values
