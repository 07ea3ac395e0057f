"""Pages of a Parquet column chunk: where they lie, which records they hold, and whether they are as they were written.

A column chunk is a row of pages, each behind a header in Thrift's compact protocol (Apache Parquet, "File format" and
`parquet.thrift`, `PageHeader`). Bodies have a CRC-32 in their
header; headers have none, so they are held against the size and the number of values that the footer says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from isal.isal_zlib import crc32

from ganglion.data.sources.parquet_footer import ENCODINGS, Chunk
from ganglion.data.sources.thrift import number_in, read_struct, read_varint

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = 0, 1, 2, 3
_BY_DICTIONARY = ("PLAIN_DICTIONARY", "RLE_DICTIONARY")
_HEADER = 256
_LONGEST_HEADER = 2**24
_COVER, _COVER_HEADER = 2**20, 13


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page.

    Attributes:
        start: offset of its header.
        body: offset of its body.
        stop: offset behind it.
        first: the first record that it holds.
        last: the one behind the last that it holds; of columns that are not flat, all records of the row group.
        by_dictionary: whether its values are places in the dictionary.
        dictionary: whether it is the dictionary itself.
        values: how many it holds.
        size: bytes of its body when it is not compressed.
        check: CRC-32 of its body, if it has one.
    """

    start: int
    body: int
    stop: int
    first: int
    last: int
    by_dictionary: bool
    dictionary: bool
    values: int
    size: int
    check: int | None


class Loss(msgspec.Struct, frozen=True):
    """Records of a row group that cannot be read.

    Attributes:
        first: the first of them.
        last: the one behind the last of them.
        offset: in the file, of what is damaged.
        reason: what is wrong.
    """

    first: int
    last: int
    offset: int
    reason: str


class Pages:
    """The pages of a column chunk, and what of it is lost.

    Attributes:
        chunk: which one it is.
        pages: those whose headers can be believed, in the order of the file.
        losses: what is lost; grows by `lose`.
    """

    def __init__(self, file: int, chunk: Chunk) -> None:
        """Read the headers of all pages.

        Args:
            file: descriptor of the open file.
            chunk: which column.
        """
        self.chunk = chunk
        self.pages: list[Page] = []
        self.losses: list[Loss] = []
        self._covered: list[tuple[int, int]] = []
        at, values = chunk.start, 0
        try:
            while at < chunk.stop:
                page = _page(file, chunk, at, values)
                values += 0 if page.dictionary else page.values
                if values > chunk.values:
                    raise ValueError(f"it goes on to value {values} of {chunk.values}")
                self.pages.append(page)
                at = page.stop
        except ValueError as error:
            first = min(values, chunk.rows) if chunk.flat else 0
            self._lose(first, chunk.rows, at, chunk.stop, f"the header of its page at byte {at} is damaged: {error}")
        else:
            if values != chunk.values:
                reason = f"its pages hold {values} values and the footer says {chunk.values}"
                self._lose(0, chunk.rows, chunk.start, chunk.stop, reason)

    @property
    def readable(self) -> list[Page]:
        """The pages of data that are not lost."""
        covered = set(self._covered)
        return [page for page in self.pages if not page.dictionary and (page.start, page.stop) not in covered]

    def damaged(self, file: int, pages: Sequence[Page], buffer: memoryview) -> list[Page]:
        """Those of some pages, in the order of the file, that do not match their checksums.

        Args:
            file: descriptor of the open file.
            pages: which ones.
            buffer: what is read goes there, piece by piece; many small pages are in one piece.
        """
        found: list[Page] = []
        last = pages[-1].stop if pages else 0
        begin = end = 0  # of what is in the buffer
        for page in pages:
            at, stop, check = page.body, page.stop, page.check
            if check is None:
                continue
            checksum = 0
            while at < stop:
                if at >= end:
                    begin, end = at, at + os.preadv(file, [buffer[: last - at]], at)
                    if end == at:
                        checksum = -1  # the file ends
                        break
                upto = min(stop, end)
                checksum = crc32(buffer[at - begin : upto - begin], checksum)
                at = upto
            if checksum != check:
                found.append(page)
        return found

    def lose(self, page: Page, reason: str) -> None:
        """Count a page as lost, and with a dictionary the pages that need it."""
        self._lose(page.first, page.last, page.start, page.stop, f"its page at byte {page.start} {reason}")
        if page.dictionary:
            for other in self.readable:
                if other.by_dictionary:
                    self.lose(other, "needs the dictionary, which is lost")

    def patches(self, only: Page | None = None) -> Iterator[tuple[int, bytes]]:
        """What to read in place of lost pages, by offset: headers of pages of a kind that readers pass over.

        Args:
            only: a page of data; all others are passed over as well.
        """
        hidden = [] if only is None else [(page.start, page.stop) for page in self.readable if page != only]
        for start, stop in sorted({*self._covered, *hidden}):
            yield from _covers(start, stop)

    def _lose(self, first: int, last: int, start: int, stop: int, reason: str) -> None:
        self.losses.append(Loss(first, last, start, f"{self.chunk.name!r}: {reason}"))
        self._covered.append((start, stop))


def _page(file: int, chunk: Chunk, at: int, values: int) -> Page:
    """Read the header of the page at `at`, before which there are `values` values."""
    header, size = _header(file, at, chunk.stop)
    kind, whole, stored = (number_in(header, field) for field in (1, 2, 3))
    body = at + size
    if stored > chunk.stop - body or whole > chunk.size:
        raise ValueError(f"a body of {stored} bytes, {whole} uncompressed, does not fit into its column")
    check = header.get(4)
    if check is not None and not isinstance(check, int):
        raise ValueError("its checksum is no number")
    if kind not in (_DATA, _DICTIONARY, _DATA_V2):
        raise ValueError(f"expected a page of data or a dictionary, found kind {kind}")
    details = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}[kind])
    if not isinstance(details, dict):
        raise ValueError(f"its details are missing for kind {kind}")
    if kind == _DICTIONARY and at != chunk.start:
        raise ValueError("expected a page of data, found a second dictionary")
    count = number_in(details, 1)
    encoding = ENCODINGS.get(number_in(details, 4 if kind == _DATA_V2 else 2), "unknown")
    if encoding not in chunk.encodings and not (kind == _DICTIONARY and encoding.startswith("PLAIN")):
        raise ValueError(f"expected an encoding of {', '.join(chunk.encodings)}, found {encoding}")
    if (not chunk.compressed or details.get(7) is False) and whole != stored:
        raise ValueError(f"its sizes {whole} and {stored} differ and it is not compressed")
    if kind == _DATA and (chunk.definition or chunk.repetition):
        levels = ENCODINGS.get(number_in(details, 3))
        if levels != "RLE" and levels not in chunk.encodings:
            raise ValueError(f"expected an encoding of levels, found {levels}")
    if kind == _DATA_V2:
        at_levels = body
        for size, highest in ((number_in(details, 6), chunk.repetition), (number_in(details, 5), chunk.definition)):
            if size > min(stored, _LONGEST_HEADER) or not _are_levels(os.pread(file, size, at_levels), count, highest):
                raise ValueError(f"expected {count} levels in {size} bytes, found others")
            at_levels += size
    first, last = (values, values + count) if chunk.flat else (0, chunk.rows)
    dictionary = kind == _DICTIONARY
    return Page(
        start=at,
        body=body,
        stop=body + stored,
        first=0 if dictionary else first,
        last=0 if dictionary else last,
        by_dictionary=not dictionary and encoding in _BY_DICTIONARY,
        dictionary=dictionary,
        values=count,
        size=whole,
        check=None if check is None else check & 0xFFFFFFFF,
    )


def _header(file: int, at: int, stop: int) -> tuple[dict[int, Any], int]:
    wanted = _HEADER
    while True:
        data = os.pread(file, min(wanted, stop - at), at)
        try:
            return read_struct(data, 0)
        except IndexError:  # it goes on behind what was read
            if wanted >= min(_LONGEST_HEADER, stop - at):
                raise ValueError("it does not end") from None
            wanted *= 8


def _are_levels(data: bytes, count: int, highest: int) -> bool:
    """Whether `count` levels take exactly these bytes, as runs of one level or of packed ones."""
    width = highest.bit_length()
    if not width:
        return not data
    at = levels = 0
    try:
        while at < len(data):
            head, at = read_varint(data, at)
            if head < 2 or levels >= count:  # a run of nothing, or one more than there are levels
                return False
            levels += (head >> 1) * (8 if head & 1 else 1)
            at += (head >> 1) * width if head & 1 else (width + 7) // 8
    except IndexError:
        return False
    return at == len(data) and levels >= count


def _covers(start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Headers of index pages, which together take the place of `start` to `stop`."""
    while start < stop:
        size = min(stop - start, _COVER)
        if 0 < stop - start - size < _COVER_HEADER:  # too little for one more
            size -= _COVER_HEADER
        yield start, _cover(size)
        start += size


def _cover(size: int) -> bytes:
    """The header of an index page that takes `size` bytes with its header: its kind and, twice, its size."""
    if size < _COVER_HEADER:
        length = bytes((2 * max(0, size - 7),))  # zigzag, as one byte
    else:
        body = 2 * (size - _COVER_HEADER)  # as four bytes, so that the header has always the same size
        length = bytes((body & 0x7F | 0x80, body >> 7 & 0x7F | 0x80, body >> 14 & 0x7F | 0x80, body >> 21 & 0x7F))
    return b"\x15\x02\x15" + length + b"\x15" + length + b"\x00"
