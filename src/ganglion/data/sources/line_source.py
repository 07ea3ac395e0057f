"""What sources of text files have in common: blocks of records, parsed whole, and record by record where that fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ganglion.core.errors import DataError
from ganglion.data.files.access import DataFile, is_local, open_file
from ganglion.data.files.compression import compression, is_empty
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns, records_of
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit
from ganglion.data.sources.arrow_columns import Flaws, columns_of, describe_arrow_error
from ganglion.data.sources.file_source import FileSource, options_of
from ganglion.data.sources.line_blocks import UNIT, Block, Spans, blocks, divide_lines, joined

Records = npt.NDArray[np.int64]
"""Numbers of records in a block, in order."""

_FEW = 0.1  # share of suspects up to which each is tried alone


class Parser(Protocol):
    """Parses the records of one file."""

    def table(self, data: bytes) -> pa.Table:
        """A table of whole records.

        Raises:
            UnicodeDecodeError: some bytes are no text.
            pyarrow.ArrowException, OverflowError: a record is broken.
        """
        ...

    def spans(self, data: bytes) -> Spans:
        """Where the records of a block lie."""
        ...

    def suspects(self, data: bytes, spans: Spans) -> Mapping[int, str | UnicodeDecodeError]:
        """Which records of a block that cannot be parsed may be broken; none where that is not known.

        Returns:
            By the number of a record what is wrong with it, as parsing it alone would say; empty where it has to be
            tried. What is wrong without being a suspect is found by halving, which takes longer.
        """
        ...


class LineSource(FileSource, frozen=True):
    """Records that end in newlines; subclasses say how they are parsed.

    A unit that ends with its file has `stop` 0. A file on this machine that is large and not compressed has several.
    """

    def infer(self, file: DataFile) -> Schema:
        """The fields of the records of a file, from its first block.

        Raises:
            DataError: it has no records, or such as cannot be.
        """
        raise NotImplementedError

    def parser(self, file: str, schema: Schema) -> tuple[int, Parser]:
        """Where the first record of a file begins, and what parses its records.

        Raises:
            DataError: the file has other fields.
        """
        raise NotImplementedError

    @property
    def quotes(self) -> bytes:
        """The sign between two of which a newline does not end a record; empty if there is none."""
        return b""

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Fields in which NaN makes a record bad."""
        return ()

    @property
    def schema(self) -> Schema:
        """The fields of every record; where none were named, those found in the first file that is not empty."""
        files = self.files()
        found = next((file for file in files if file.size), None)
        if found is None:
            raise DataError(f"{files[0].path}{' and all others' * (len(files) > 1)}: the file is empty.")
        return _inferred(_Asked(self, found))

    def divide(self, file: DataFile) -> Iterable[Unit]:
        """The units of one file."""
        pieces: tuple[tuple[int, int], ...] = ((0, 0),)
        if file.size > UNIT and is_local(file.path):
            pieces = _pieces(_Asked(self, file))
        for number, (start, stop) in enumerate(pieces):
            name = f"{file.path} from byte {start}" if number else file.path
            yield Unit(number=0, name=name, path=file.path, start=start, stop=stop, size=(stop or file.size) - start)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, in order; at least one block of them is held at a time."""
        schema = self.schema
        record, dirty = 0, False
        with closing(open_file(unit.path, decompress=True, retry=self.retry)) as file:
            if is_empty(file):
                set_aside(BadRecord.at(unit, 0, "the file is empty", offset=0))
                return
            begin, parser = self.parser(unit.path, schema)
            for block in blocks(file, max(begin, unit.start), unit.stop or None, self.quotes):
                if block.flaw:
                    set_aside(BadRecord.at(unit, record, block.flaw, offset=block.offset, payload=block.data))
                    record += 1
                    continue
                reading = _Reading(self, schema, parser, unit, block, record, set_aside)
                del block
                for batch in reading.batches(dirty):
                    yield from batch.pieces(size)
                    del batch  # the next block needs its memory
                record, dirty = reading.next, reading.dirty
                del reading
        pa.default_memory_pool().release_unused()  # else it keeps about as much as a block takes


class _Reading:
    """One block, being parsed."""

    def __init__(
        self,
        source: LineSource,
        schema: Schema,
        parser: Parser,
        unit: Unit,
        block: Block,
        record: int,
        set_aside: SetAside,
    ) -> None:
        self._source, self._schema, self._parser = source, schema, parser
        self._unit, self._block, self._set_aside = unit, block, set_aside
        self._first = record
        self.next = record
        """Number of the first record behind the block."""
        self.dirty = False
        """Whether a record could not be parsed."""

    def batches(self, dirty: bool) -> Iterator[Batch]:
        """The records that are good; the others are set aside, in their order.

        Args:
            dirty: whether it is likely that records cannot be parsed; it changes the time that is taken and no result.
        """
        data = self._block.data
        if dirty:
            yield from self._salvage(self._parser.spans(data))
            return
        try:
            columns, flaws = self._columns(data)
        except (pa.ArrowException, UnicodeDecodeError, OverflowError):
            yield from self._salvage(self._parser.spans(data))
            return
        count = records_of(columns)
        if not flaws:
            self.next = self._first + count
            batch = [Batch(columns, self._unit.ids(self._first, self.next))]
            del columns, data  # nothing is kept of what is given away
            if count:
                yield batch.pop()
            return
        spans = self._parser.spans(data)
        if len(spans) != count:
            yield from self._salvage(spans)
            return
        self.next = self._first + count
        yield from self._without(columns, flaws, spans, np.arange(count))

    def _columns(self, data: bytes) -> tuple[Columns, Flaws]:
        return columns_of(self._parser.table(data), self._schema, self._source.required_fields)

    def _salvage(self, spans: Spans) -> Iterator[Batch]:
        """The records of a block in which some are broken."""
        self.next = self._first + len(spans)
        suspects = self._parser.suspects(self._block.data, spans)
        self.dirty = bool(suspects)
        if not 0 < len(suspects) <= _FEW * len(spans):
            yield from self._halve(spans, np.arange(len(spans)))
            return
        found = list(self._halve(spans, np.delete(np.arange(len(spans)), sorted(suspects))))
        for suspect, problem in sorted(suspects.items()):
            if isinstance(problem, UnicodeDecodeError):
                self._bad(suspect, spans, self._no_text(suspect, spans, problem))
            elif problem:
                self._bad(suspect, spans, problem)
            else:
                found += self._halve(spans, np.array([suspect]))
        if len(found) == 1:
            yield found[0]
        elif found:
            whole = Batch.join(found)
            yield whole.take(np.argsort(whole.ids))

    def _halve(self, spans: Spans, records: Records) -> Iterator[Batch]:
        """Parse again and again, fewer records at a time, until those that are broken stand alone."""
        waiting = [records]
        while waiting:
            tried = waiting.pop()
            if not len(tried):
                continue
            problem = "it is not one record"
            try:
                columns, flaws = self._columns(self._joined(spans, tried))
                if records_of(columns) == len(tried):
                    yield from self._without(columns, flaws, spans, tried)
                    continue
            except UnicodeDecodeError as error:
                problem = self._no_text(int(tried[0]), spans, error)
            except (pa.ArrowException, OverflowError) as error:
                problem = describe_arrow_error(error)
            if len(tried) == 1:
                self._bad(int(tried[0]), spans, problem)
            else:
                middle = len(tried) // 2
                waiting += [tried[middle:], tried[:middle]]

    def _joined(self, spans: Spans, records: Records) -> bytes:
        return joined(self._block.data, spans, records)

    def _without(self, columns: Columns, flaws: Flaws, spans: Spans, records: Records) -> Iterator[Batch]:
        for row in sorted(flaws):
            self._bad(int(records[row]), spans, flaws[row])
        ids = self._unit.ids(self._first, self._first + len(spans))[records]
        batch = Batch(columns, ids)
        if len(flaws) < len(records):
            yield batch.take(np.setdiff1d(np.arange(len(records)), list(flaws))) if flaws else batch

    def _no_text(self, record: int, spans: Spans, error: UnicodeDecodeError) -> str:
        return f"byte {self._block.offset + int(spans[record, 0]) + error.start} is not {error.encoding}"

    def _bad(self, record: int, spans: Spans, reason: str) -> None:
        start, stop = spans[record].tolist()
        payload = self._block.data[start:stop].rstrip(b"\r\n")
        offset = self._block.offset + start
        self._set_aside(BadRecord.at(self._unit, self._first + record, reason, offset=offset, payload=payload))


class _Asked:
    """A source and one of its files, told apart by all that the answer depends on."""

    def __init__(self, source: LineSource, file: DataFile) -> None:
        self.source, self.file = source, file
        self._key = (options_of(source), file)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(64)
def _inferred(asked: _Asked) -> Schema:
    return asked.source.infer(asked.file)


@lru_cache(1024)
def _pieces(asked: _Asked) -> tuple[tuple[int, int], ...]:
    source, file = asked.source, asked.file
    with open_file(file.path) as plain:
        if compression(plain.peek(16)[:16]):
            return ((0, 0),)
        begin, _ = source.parser(file.path, source.schema)
        found = divide_lines(plain, begin, file.size, source.quotes)
    return ((0, found[0][1]), *found[1:])
