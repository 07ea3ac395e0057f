"""Compressed files, recognised by how they begin: gzip, bzip2, xz and zstd."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import TYPE_CHECKING, Any

from ganglion.core.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER = 2**18
_LONGEST_MAGIC = 10


class TruncatedError(DataError):
    """A compressed file ends too early; what was read of it before is as it was written."""


def compression(beginning: bytes) -> str:
    """How a file is compressed.

    Args:
        beginning: its first 10 bytes, or all that it has.

    Returns:
        `gzip`, `bzip2`, `xz`, `zstd`, or an empty string.
    """
    if beginning.startswith(b"\x1f\x8b"):
        return "gzip"
    if beginning.startswith(b"BZh") and beginning[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if beginning.startswith(b"\xfd7zXZ\0"):
        return "xz"
    return "zstd" if beginning.startswith(b"\x28\xb5\x2f\xfd") else ""


def decompressed(raw: io.BufferedReader, name: str) -> io.BufferedReader:
    """The content of a file that may be compressed.

    Args:
        raw: the file, at its beginning; closed with what is returned.
        name: for messages.

    Returns:
        `raw` itself where it is not compressed.

    Raises:
        TruncatedError: on reading: the file ends in the middle.
        DataError: on reading: the file is damaged.
    """
    kind = compression(raw.read(_LONGEST_MAGIC))
    raw.seek(0)
    return io.BufferedReader(_Decompressed(raw, name, kind), _BUFFER) if kind else raw


def is_compressed(file: io.BufferedReader) -> bool:
    """Whether a file that `decompressed` returned is decompressed on the way."""
    return isinstance(file.raw, _Decompressed)


def is_empty(file: io.BufferedReader) -> bool:
    """Whether a file that is at its beginning has no content; one that is cut off before its content is not empty.

    Raises:
        DataError: the file is damaged.
        OutageError: it is away.
    """
    try:
        return not file.peek(1)
    except TruncatedError:
        return False


def read_whole(file: io.BufferedReader, size: int) -> tuple[bytes, str]:
    """The next bytes of a file that may be compressed and cut off.

    Returns:
        Up to `size` bytes, fewer only at the end, and what is wrong there; empty where nothing is.

    Raises:
        DataError: the file is damaged.
        OutageError: it is away.
    """
    found: list[bytes] = []
    while size:
        try:
            data = file.read1(size)  # `read` would lose what comes before a truncation
        except TruncatedError as error:
            return b"".join(found), str(error)
        if not data:
            break
        found.append(data)
        size -= len(data)
    return b"".join(found), ""


def read_into(file: io.BufferedReader, space: memoryview) -> tuple[int, str]:
    """Fill memory with the next bytes of a file that may be compressed and cut off.

    Returns:
        How many bytes were read, fewer than there is room for only at the end, and what is wrong there; empty where
        nothing is.

    Raises:
        DataError: the file is damaged.
        OutageError: it is away.
    """
    # `readinto` would lose what comes before a truncation; and `readinto1` what was buffered, if it were asked for more
    # than the buffer holds.
    most = _BUFFER if is_compressed(file) else len(space)
    read = 0
    while read < len(space):
        try:
            more = file.readinto1(space[read : read + most])
        except TruncatedError as error:
            return read, str(error)
        if not more:
            break
        read += more
    return read, ""


class _Decompressed(io.RawIOBase):
    def __init__(self, raw: io.BufferedReader, name: str, kind: str) -> None:
        super().__init__()
        self._raw, self._name, self._kind = raw, name, kind
        self._content = self._decoder()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move by decompressing what lies between, from the beginning where that is before."""
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            while self._some(_BUFFER):
                pass
            offset += self._position
        if offset < self._position:
            self._raw.seek(0)
            self._content, self._position = self._decoder(), 0
        while self._position < offset and self._some(min(_BUFFER, offset - self._position)):
            pass
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._some(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _some(self, size: int) -> bytes:
        try:
            data: bytes = self._content.read1(size)
        except (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            where = f"{self._name}: at byte {self._position} of the decompressed content"
            if isinstance(error, EOFError) or "runcated" in str(error):  # Arrow has no type for it
                raise TruncatedError(f"{where}: the {self._kind} stream is truncated.") from error
            raise DataError(f"{where}: expected an intact {self._kind} stream, found: {error}.") from error
        self._position += len(data)
        return data

    def _decoder(self) -> Any:
        if self._kind == "gzip":
            return gzip.GzipFile(fileobj=self._raw, mode="rb")
        if self._kind == "bzip2":
            return bz2.BZ2File(self._raw)
        if self._kind == "xz":
            return lzma.LZMAFile(self._raw)
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(self._raw, mode="r"), "zstd")
