"""A file elsewhere, read as if it were here: connections that break are made again where they broke."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ganglion.core.errors import DataError
from ganglion.data.files.retry import Retry, retried

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Connection(Protocol):
    """The bytes of a file from one place on."""

    size: int | None
    version: str

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer` and return how many bytes; 0 at the end, or where the connection broke."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class RemoteFile(io.RawIOBase):
    """A file of which one version is read, whatever happens to the connection.

    Args:
        name: for messages.
        connect: makes a connection that begins at a byte; raises `OSError` where that may pass.
        position: of the first byte to read.
        retry: how long a read is repeated.

    Raises:
        DataError: there is no such file, here and when it is read.
        OutageError: it is away, here and when it is read.
    """

    def __init__(self, name: str, connect: Callable[[int], Connection], position: int, retry: Retry) -> None:
        super().__init__()
        self._connection: Connection | None = None
        self._name, self._connect, self._position, self._retry = name, connect, position, retry
        self._size: int | None = None
        self._version: str | None = None
        retried(self._connected, retry, name)

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether reading can go on elsewhere: yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read on from another place."""
        if whence == io.SEEK_END:
            if self._size is None:
                raise io.UnsupportedOperation(f"the server does not say how long {self._name} is")
            offset += self._size
        elif whence == io.SEEK_CUR:
            offset += self._position
        if offset != self._position:
            self._disconnect()
            self._position = max(0, offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the beginning of `buffer` and return how many bytes; 0 at the end of the file.

        Raises:
            DataError: the file has another version than when reading began, or is gone.
            OutageError: it is away.
        """
        view = memoryview(buffer).cast("B")
        if not len(view) or (self._size is not None and self._position >= self._size):
            return 0
        count = retried(lambda: self._read(view), self._retry, self._name)
        self._position += count
        return count

    def close(self) -> None:
        """End the connection."""
        self._disconnect()
        super().close()

    def _read(self, buffer: memoryview) -> int:
        try:
            count = self._connected().readinto(buffer)
            if not count and self._size is not None:
                raise ConnectionError(f"the connection ended at byte {self._position} of {self._size}")
        except OSError:
            self._disconnect()
            raise
        return count

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._connect(self._position)
            found = self._connection.version
            if self._version and found and found != self._version:
                raise DataError(f"{self._name} was changed while it was read; read it again from its beginning.")
            self._version = self._version or found
            self._size = self._connection.size if self._connection.size is not None else self._size
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
