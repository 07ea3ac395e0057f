"""Files of records that end in newlines, cut into blocks of whole records.

Where blocks end is a function of the bytes alone: so are, with it, the records and their numbers, whatever is read at
a time and by whomever.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ganglion.data.files.compression import read_into

BLOCK = 4 * 2**20
"""Bytes of a block, at most, and so of a record."""

UNIT = 16 * BLOCK
"""Bytes after which a large file is divided, about."""

_PIECE = 2**18
"""Bytes in which the ends of lines are looked for at a time; what that takes stays small beside a block."""

Spans = npt.NDArray[np.int64]
"""Where records begin and end in a block, their newlines included; shape `(records, 2)`."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some bytes of a file.

    Attributes:
        offset: of the first, in the decompressed file.
        data: whole records, or the beginning of the one that is broken.
        flaw: why this is not a whole record; empty where the block consists of such.
    """

    offset: int
    data: bytes
    flaw: str = ""


def blocks(file: io.BufferedReader, start: int, stop: int | None, quote: bytes = b"") -> Iterator[Block]:
    """Read records.

    Args:
        file: plain, or decompressed on the way.
        start: where a record begins.
        stop: where a record ends; `None` for the end of the file.
        quote: the sign, if there is one, between two of which a newline does not end a record.

    Raises:
        DataError: the file is damaged and nothing more of it can be read.
        OutageError: it is away.
    """
    file.seek(start)
    # All is read into one place, and whole records are copied from there: large memory that is new takes longer to get,
    # since the kernel fills it with zeros, than to copy. Of a small file only its pages are ever touched.
    space = mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE)
    offset, held = start, 0
    while True:
        wanted = BLOCK - held
        if stop is not None:
            wanted = min(wanted, stop - offset - held)
        read, flaw = read_into(file, memoryview(space)[held : held + wanted])
        held += read
        ended = read < wanted or (stop is not None and offset + held >= stop)
        data = space[:held] if ended and not flaw else _whole_records(space, held, quote)
        end = len(data)
        if end:
            held -= end
            space.move(0, end, held)
            found = [Block(offset, data)]
            del data  # of large blocks, no copy is kept while others work with them
            offset += end
            yield found.pop()
        if flaw:
            yield Block(offset, space[:held], f"it is cut off: {flaw}")
        if ended:
            return
        if not end:
            yield Block(offset, space[:held], f"no record ends within {BLOCK} bytes")
            offset, held = _next_record(file, offset + held), 0


def divide_lines(file: io.BufferedReader, start: int, size: int, quote: bytes = b"") -> tuple[tuple[int, int], ...]:
    """Cut a plain file into pieces of whole records.

    Args:
        file: read through where there is a `quote`, else only where it is cut.
        start: where the first record begins.
        size: bytes of the file.
        quote: as for `blocks`.

    Returns:
        Where each piece begins and ends, in order.
    """
    cuts = [start]
    if quote:
        for block in blocks(file, start, size, quote):
            if block.offset - cuts[-1] >= UNIT and not block.flaw:
                cuts.append(block.offset)
    else:
        while cuts[-1] + UNIT < size:
            file.seek(cuts[-1] + UNIT - 1)
            line = file.readline(BLOCK)
            if not line.endswith(b"\n"):
                break
            if (cut := cuts[-1] + UNIT - 1 + len(line)) >= size:
                break
            cuts.append(cut)
    return tuple(zip(cuts, [*cuts[1:], size], strict=True))


def line_ends(data: bytes) -> npt.NDArray[np.int64]:
    """Where the lines of `data` end: behind their newlines, and at the end of the data."""
    values = np.frombuffer(data, np.uint8)
    ends = [
        np.flatnonzero(values[first : first + _PIECE] == ord("\n")) + (first + 1)
        for first in range(0, len(data), _PIECE)
    ]
    if data and not data.endswith(b"\n"):
        ends.append(np.array([len(data)]))
    return np.concatenate(ends) if ends else np.zeros(0, np.int64)


def line_spans(data: bytes, empty: bytes = b"") -> Spans:
    """Where the lines of `data` lie, their newlines included.

    Args:
        data: whole lines.
        empty: signs of which a line may consist that is passed over; without any, empty lines count.
    """
    ends = line_ends(data)
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1) if len(ends) else np.zeros((0, 2), np.int64)
    if not empty or not len(spans):
        return spans
    signs = np.isin(np.frombuffer(data, np.uint8)[spans[:, 0]], np.frombuffer(empty, np.uint8))
    nothing = [row for row in np.flatnonzero(signs).tolist() if not data[slice(*spans[row])].strip(empty)]
    return np.delete(spans, nothing, axis=0) if nothing else spans


def joined(data: bytes, spans: Spans, records: npt.NDArray[np.int64]) -> bytes:
    """Some records of a block, one behind the other.

    Args:
        data: of the block.
        spans: where its records lie.
        records: numbers of those that are wanted, in order; at least one.
    """
    breaks = np.flatnonzero(np.diff(records) > 1)
    firsts = spans[records[np.concatenate([[0], breaks + 1])], 0]
    lasts = spans[records[np.concatenate([breaks, [-1]])], 1]
    return b"".join([data[start:stop] for start, stop in zip(firsts.tolist(), lasts.tolist(), strict=True)])


def _whole_records(space: mmap.mmap, held: int, quote: bytes) -> bytes:
    """The records that end within the first `held` bytes of `space`."""
    data = space[: space.rfind(b"\n", 0, held) + 1]
    if not quote or data.count(quote) % 2 == 0:
        return data
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values == ord("\n"))
    quotes = np.flatnonzero(values == ord(quote))
    outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
    if len(outside):
        return data[: int(outside[-1]) + 1]
    return data if held >= BLOCK else b""  # a quote that is never closed does not swallow the file


def _next_record(file: io.BufferedReader, offset: int) -> int:
    """Pass over the rest of a record that is too long; where the next begins."""
    while line := file.readline(BLOCK):
        offset += len(line)
        if line.endswith(b"\n"):
            break
    return offset
