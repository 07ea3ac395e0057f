"""IDX files, the format of the MNIST family: images and their labels, plain or compressed with gzip.

The format (Yann LeCun, "The MNIST database", section *File formats*): two zero bytes, one byte for the type of the
values, one for the number of dimensions, each dimension as a big-endian 32-bit integer, then the values, big-endian,
the last dimension varying fastest.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.files.access import fingerprints, list_files, open_file
from ganglion.data.files.compression import is_compressed
from ganglion.data.records.bad_record import SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array, Columns
from ganglion.data.records.schema import Field, Schema, records_within
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_UNIT = 64 * 2**20
_PIECE = 2**20  # bytes asked for at once, so that a header that promises too much costs no memory


class IdxFile:
    """One IDX file, open for reading from its first record on.

    Attributes:
        count: records in the file, its first dimension.
        shape: of one record, the other dimensions.
        dtype: of the values, in native byte order.
        compressed: whether the file is.

    Raises:
        DataError: the file is missing, or its header or size is not that of an IDX file; the message names the file,
            the byte, what was expected and what was found.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        with ExitStack() as stack:
            self._stream = stack.enter_context(closing(open_file(path, decompress=True)))
            self.compressed = is_compressed(self._stream)
            self._read_header()
            if not self.compressed:
                self._check_size(self._stream.seek(0, io.SEEK_END))
                self._stream.seek(self._offset)
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def skip(self, records: int) -> None:
        """Move forward by `records`."""
        self._offset = self._stream.seek(self._offset + records * self._record_bytes)

    def read(self, records: int) -> Array:
        """The next `records`, of shape `(records, *shape)`, in native byte order.

        Raises:
            DataError: the data ends before, or the compressed file is damaged or truncated.
        """
        data = bytearray()
        for piece in self._pieces(records * self._record_bytes):
            data += piece
        values = np.frombuffer(data, self.dtype.newbyteorder(">")).reshape(records, *self.shape)
        return values.astype(self.dtype, copy=False)

    def finish(self) -> None:
        """Check that nothing follows the last record, once it has been read.

        Raises:
            DataError: there are more bytes, or the compressed file's checksum is wrong.
        """
        if self._some(1):
            self._refuse(f"expected the end of the file ({self._described}), found further bytes", at=self._size)

    def _read_header(self) -> None:
        magic = self._header_bytes(4, "two zero bytes, a type and a number of dimensions")
        if magic[:2] != b"\0\0":
            self._refuse(f"expected two zero bytes, found {magic[:2].hex(' ')}; this is not an IDX file", at=0)
        if magic[2] not in _DTYPES:
            allowed = ", ".join(f"{code:02x} ({np.dtype(name).name})" for code, name in _DTYPES.items())
            self._refuse(f"expected a type of values, one of {allowed}, found {magic[2]:02x}", at=2)
        if magic[3] == 0:
            self._refuse("expected at least 1 dimension, found 0", at=3)
        sizes = self._header_bytes(4 * magic[3], f"{magic[3]} dimensions of 4 bytes")
        self.count, *shape = (int(size) for size in np.frombuffer(sizes, ">u4"))
        self.shape = tuple(shape)
        self.dtype = np.dtype(_DTYPES[magic[2]]).newbyteorder("=")
        self._record_bytes = self.dtype.itemsize * math.prod(self.shape)
        self._size = self._offset + self.count * self._record_bytes

    def _header_bytes(self, size: int, what: str) -> bytes:
        start = self._offset
        data = self._some(size)
        if len(data) < size:
            self._refuse(f"expected {what} ({size} bytes), found {len(data)} bytes and the end of the file", at=start)
        return data

    def _check_size(self, found: int) -> None:
        if found != self._size:
            self._refuse(
                f"expected the end of the file ({self._described}), found a file of {found} bytes", at=self._size
            )

    def _pieces(self, size: int) -> Iterator[bytes]:
        end = self._offset + size
        while self._offset < end:
            piece = self._some(min(_PIECE, end - self._offset))
            if not piece:
                self._refuse(f"expected further data ({self._described}), found the end of the file")
            yield piece

    def _some(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        data = self._stream.read(size)
        self._offset += len(data)
        return data

    @property
    def _described(self) -> str:
        values = "x".join(map(str, (self.count, *self.shape)))
        return f"its header announces {values} values of {self.dtype.name}, {self._size} bytes in all"

    def _refuse(self, problem: str, at: int | None = None) -> NoReturn:
        where = " of the decompressed content" if self.compressed else ""
        raise DataError(f"{self._path}: at byte {self._offset if at is None else at}{where}: {problem}.")


class IdxSource(PlainSource, frozen=True, tag="ganglion.data.sources.idx:IdxSource"):
    """Images and labels from two IDX files, as the fields `image` and `label`.

    Integer labels become int64, the type that losses take; images keep the type and shape that they have.

    Attributes:
        images: path of the file of images.
        labels: path of the file of labels, which has one dimension.
    """

    images: str
    labels: str

    @property
    def schema(self) -> Schema:
        """The fields `image` and `label`."""
        with _Pair(self) as pair:
            return pair.schema

    def units(self) -> Sequence[Unit]:
        """Ranges of records, about 64 MiB each; all records where a file is compressed."""
        with _Pair(self) as pair:
            count, width = pair.count, sum(field.record_bytes for field in pair.schema)
            step = max(1, count if pair.compressed else _UNIT // max(1, width))
        fingerprint = " ".join(fingerprints(list_files(self.images) + list_files(self.labels)))
        found: list[Unit] = []
        for start in range(0, max(1, count), step):
            stop = min(start + step, count)
            name = self.images if step >= count else f"{self.images}, records {start} to {stop}"
            size, records = (stop - start) * width, stop - start
            found.append(
                Unit(
                    number=len(found),
                    name=name,
                    path=self.images,
                    start=start,
                    stop=stop,
                    size=size,
                    records=records,
                    fingerprint=fingerprint,
                )
            )
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, in order; none is bad, but a file that is damaged is refused as a whole."""
        with _Pair(self) as pair:
            if unit.stop > pair.count:
                raise DataError(f"{unit.name}: {self.images} now holds {pair.count} images; divide the source again.")
            pair.images.skip(unit.start)
            pair.labels.skip(unit.start)
            step = records_within(pair.schema, size)
            for first in range(unit.start, unit.stop, step):
                last = min(first + step, unit.stop)
                labels = pair.labels.read(last - first).astype(pair.label_dtype)
                columns: Columns = {"image": pair.images.read(last - first), "label": labels}
                yield Batch(columns, unit.ids(first - unit.start, last - unit.start))
            if unit.stop == pair.count:
                pair.images.finish()
                pair.labels.finish()


class _Pair:
    """Both files of a source, open, and checked against each other."""

    def __init__(self, source: IdxSource) -> None:
        with ExitStack() as stack:
            self.images = stack.enter_context(IdxFile(source.images))
            self.labels = stack.enter_context(IdxFile(source.labels))
            if self.labels.shape:
                raise DataError(
                    f"{source.labels} has {1 + len(self.labels.shape)} dimensions; a file of labels has 1. "
                    "Are images and labels exchanged?"
                )
            if self.images.count != self.labels.count:
                raise DataError(
                    f"{source.images} holds {self.images.count} images but {source.labels} holds {self.labels.count} "
                    "labels; give two files that belong together."
                )
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    @property
    def count(self) -> int:
        return self.images.count

    @property
    def compressed(self) -> bool:
        return self.images.compressed or self.labels.compressed

    @property
    def label_dtype(self) -> np.dtype[Any]:
        dtype = self.labels.dtype
        return np.dtype(np.int64) if dtype.kind in "iu" else dtype

    @property
    def schema(self) -> Schema:
        return (
            Field("image", self.images.dtype.name, self.images.shape),
            Field("label", self.label_dtype.name),
        )
