"""One row group of a Parquet file, read a stretch of records at a time, around what is damaged in it."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, repeat
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ganglion.core.errors import DataError
from ganglion.data.prefetch import prefetch
from ganglion.data.records.unit import Unit
from ganglion.data.sources.parquet_footer import Chunk
from ganglion.data.sources.parquet_pages import Loss, Page, Pages

_AHEAD = 2
"""Stretches whose pages are verified while others are decoded."""

_PIECE = 2**18
"""Bytes of pages that are read at once to be verified; they stay in the processor's cache."""

_LEAST_BUFFER, _MOST_BUFFER = 2**14, 2**20

Arrays = dict[str, pa.Array]


def open_parquet(source: Any, place: str, buffer_size: int = 0) -> pq.ParquetFile:
    """Open a Parquet file that is read as it is asked for, rather than in whole column chunks.

    Raises:
        DataError: it is none, or its footer is damaged.
    """
    try:
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=buffer_size)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}.") from error


class RowGroup:
    """A row group, open for reading from its first record to its last.

    Checksums of pages are compared in a thread of its own, a few stretches ahead of those that are decoded. A damaged
    page is hidden from the decoder, and every column is then read by itself, so that the records of other pages remain.
    """

    def __init__(
        self,
        path: str,
        metadata: pq.FileMetaData,
        unit: Unit,
        chunks: Sequence[Chunk],
        *,
        stretch: int,
        memory: int,
        verify: bool,
    ) -> None:
        """Read where everything lies.

        Args:
            path: of a file on this machine.
            metadata: its footer, as Arrow takes it.
            unit: the row group.
            chunks: the columns to read.
            stretch: records to read at a time.
            memory: bytes for buffers of files, about.
            verify: whether checksums of pages are compared.

        Raises:
            OSError: the file is gone.
        """
        with ExitStack() as stack:
            self._descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, self._descriptor)
            self._path, self._metadata, self._group, self._names = (
                path,
                metadata,
                unit.start,
                tuple(chunk.name for chunk in chunks),
            )
            self._stretch, self._verify = stretch, verify
            buffer = min(_MOST_BUFFER, max(_LEAST_BUFFER, memory // max(1, len(chunks))))
            self._buffer = buffer
            self.rows = chunks[0].rows if chunks else 0
            self._columns = {chunk.name: Pages(self._descriptor, chunk) for chunk in chunks}
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def stretches(self) -> Iterator[tuple[int, list[tuple[int, Arrays]], list[Loss]]]:
        """All records, stretch by stretch.

        Yields:
            Where the stretch ends, its runs of readable records, each with the number of its first one, and what is
            lost of it.
        """
        checks = prefetch(self._damages(), _AHEAD)
        try:
            yield from self._read(checks)
        finally:
            checks.close()

    def _read(
        self, checks: Iterator[list[tuple[str, Page]]]
    ) -> Iterator[tuple[int, list[tuple[int, Arrays]], list[Loss]]]:
        reader = self._apart() if self._losses() else self._together()
        with ExitStack() as stack:
            stack.callback(lambda: reader.close())
            for start in range(0, self.rows, self._stretch):
                stop = min(start + self._stretch, self.rows)
                damages = next(checks)
                if damages:  # find out about all others, so that the readers are opened again just once
                    for name, page in (damage for found in chain([damages], checks) for damage in found):
                        self._columns[name].lose(page, "does not match its checksum")
                    reader.close()
                    reader = self._apart()
                    checks = repeat([])
                try:
                    runs = reader.read(start, stop)
                except (pa.ArrowException, OSError) as error:
                    self._find_undecodable(start, str(error))
                    reader.close()
                    reader = self._apart()
                    try:
                        runs = reader.read(start, stop)
                    except (pa.ArrowException, OSError) as again:
                        yield self.rows, [], [Loss(start, self.rows, -1, f"the row group cannot be decoded: {again}")]
                        return
                yield stop, runs, [_within(loss, start, stop) for loss in self._losses() if _touches(loss, start, stop)]

    def _damages(self) -> Iterator[list[tuple[str, Page]]]:
        """For each stretch the pages that begin in it and do not match their checksums."""
        begin = {name: (pages.pages, [page.first for page in pages.pages]) for name, pages in self._columns.items()}
        done = dict.fromkeys(begin, 0)
        buffer = memoryview(bytearray(_PIECE))  # once for all: fresh memory costs more than what is done with it
        for start in range(0, self.rows, self._stretch):
            found: list[tuple[str, Page]] = []
            for name, (pages, firsts) in begin.items() if self._verify else ():
                upto = bisect_right(firsts, start + self._stretch - 1)
                damaged = self._columns[name].damaged(self._descriptor, pages[done[name] : upto], buffer)
                found.extend((name, page) for page in damaged)
                done[name] = max(upto, done[name])
            yield found

    def _losses(self) -> list[Loss]:
        return [loss for pages in self._columns.values() for loss in pages.losses if loss.last > loss.first]

    def _together(self) -> _Readers:
        """All columns at once: the way of a row group without damage."""
        return _Readers({self._names: self._reader(self._names)})

    def _apart(self) -> _Readers:
        """Each column by itself, around what is lost of it."""
        return _Readers({(name,): self._reader((name,), pages) for name, pages in self._columns.items()})

    def _reader(self, names: tuple[str, ...], pages: Pages | None = None, only: Page | None = None) -> _Reader:
        patches = dict(pages.patches(only)) if pages else {}
        source = _Patched(self._path, patches) if patches else self._path
        file = pq.ParquetFile(source, metadata=self._metadata, pre_buffer=False, buffer_size=self._buffer)
        batches = file.iter_batches(self._stretch, row_groups=[self._group], columns=list(names), use_threads=False)
        return _Reader(file, source, batches, pages.losses if pages else ())

    def _find_undecodable(self, start: int, reason: str) -> None:
        """Try pages one by one, each with the others hidden; those that cannot be decoded are lost."""
        for name, pages in self._columns.items():
            for page in pages.readable if pages.chunk.flat else ():
                if page.last > start:
                    reader = self._reader((name,), pages, page)
                    try:
                        found = reader.count()
                    except (pa.ArrowException, OSError) as error:
                        pages.lose(page, f"cannot be decoded: {error}")
                    else:
                        if found != page.values:
                            pages.lose(page, f"holds {found} values, and its header says {page.values}")
                    finally:
                        reader.close()


class _Readers:
    """Readers of some columns each, moved forward together."""

    def __init__(self, readers: dict[tuple[str, ...], _Reader]) -> None:
        self._readers = readers

    def read(self, start: int, stop: int) -> list[tuple[int, Arrays]]:
        """The runs of records in a stretch of which no reader has lost any."""
        losses = [loss for reader in self._readers.values() for loss in reader.losses if _touches(loss, start, stop)]
        found: list[tuple[int, Arrays]] = []
        at = start
        while at < stop:
            behind = max((loss.last for loss in losses if loss.first <= at < loss.last), default=at)
            if behind == at:
                end = min((loss.first for loss in losses if loss.first > at), default=stop)
                found.append((at, self._records(at, end)))
                at = end
            else:
                at = behind
        return found

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def _records(self, start: int, stop: int) -> Arrays:
        arrays: Arrays = {}
        for names, reader in self._readers.items():
            batch = reader.records(start, stop)
            arrays.update((name, batch.column(name)) for name in names)
        return arrays


class _Reader:
    """The records of some columns that are not lost, read forward."""

    def __init__(
        self,
        file: pq.ParquetFile,
        source: str | _Patched,
        batches: Iterator[pa.RecordBatch],
        losses: Sequence[Loss],
    ) -> None:
        self.losses = losses
        self._file = file
        self._source = source
        self._batches = batches
        self._at = 0  # of the records that are left
        self._rest: pa.RecordBatch | None = None

    def records(self, start: int, stop: int) -> pa.RecordBatch:
        """Records `start` to `stop` (exclusive) of the row group, none of which is lost here."""
        first = start - self._lost_before(start)
        self._pull(first - self._at)
        self._at = first + stop - start
        found = self._pull(stop - start)
        return found[0] if len(found) == 1 else pa.concat_batches(found)

    def count(self) -> int:
        """How many records are left."""
        return sum(len(batch) for batch in self._batches)

    def close(self) -> None:
        self._rest = None
        self._batches = iter(())
        self._file.close()
        if isinstance(self._source, _Patched):
            self._source.close()

    def _lost_before(self, row: int) -> int:
        lost, reached = 0, 0
        for loss in sorted(self.losses, key=lambda loss: loss.first):
            lost += max(0, min(loss.last, row) - max(loss.first, reached))
            reached = max(reached, loss.last)
        return lost

    def _pull(self, records: int) -> list[pa.RecordBatch]:
        found: list[pa.RecordBatch] = []
        while records > 0:
            rest = next(self._batches, None) if self._rest is None else self._rest
            if rest is None:
                raise pa.ArrowInvalid(f"{records} further records were expected")
            found.append(rest[:records])
            self._rest = rest[records:] if len(rest) > records else None
            records -= len(found[-1])
        return found


class _Patched(io.RawIOBase):
    """A file in which some bytes are replaced."""

    def __init__(self, path: str, patches: dict[int, bytes]) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed with this
        self._patches = patches
        self._offsets = sorted(patches)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        size = self._file.readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for offset in self._offsets[max(0, bisect_right(self._offsets, at) - 1) :]:
            if offset >= at + size:
                break
            patch = self._patches[offset]
            first, last = max(at, offset), min(at + size, offset + len(patch))
            if first < last:
                view[first - at : last - at] = patch[first - offset : last - offset]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _touches(loss: Loss, start: int, stop: int) -> bool:
    return loss.first < stop and loss.last > start


def _within(loss: Loss, start: int, stop: int) -> Loss:
    return Loss(max(loss.first, start), min(loss.last, stop), loss.offset, loss.reason)
