"""Files that sources read: found by patterns, opened, and told apart by their content; on this machine or elsewhere.

A path without a scheme, or with `file://`, is of this machine; `http://` and `https://` are web servers; any other
scheme, such as `s3://` or `memory://`, is an object store that fsspec knows.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.files.compression import decompressed
from ganglion.data.files.retry import Retry, retried

BUFFER = 2**20
"""Bytes asked for at once where a file is elsewhere."""

_WEB = ("http://", "https://")
_DIGEST_THREADS = 2
_CACHED = 2**19


class DataFile(msgspec.Struct, frozen=True):
    """A file as it was found.

    Attributes:
        path: absolute, or with its scheme.
        size: bytes.
        version: changes when the file does; cheap, and of one machine or server alone. Empty where a server says
            nothing about versions.
    """

    path: str
    size: int
    version: str

    @property
    def fingerprint(self) -> str:
        """Digest of the content; of a file elsewhere that of its version, if it has one.

        A file is read once for it in the life of a process.

        Raises:
            DataError: the file is gone or has changed since it was found.
            OutageError: it is away.
        """
        if is_local(self.path):
            return _content_digest(self.path, self.version)
        if self.version:
            return f"version:{hashlib.sha256(self.version.encode()).hexdigest()}"
        with open_file(self.path) as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def is_local(path: str) -> bool:
    """Whether a path is of this machine."""
    return "://" not in path or path.startswith("file://")


def list_files(
    patterns: str | Sequence[str], suffixes: tuple[str, ...] = (), *, retry: Retry | None = None
) -> tuple[DataFile, ...]:
    """Find files.

    Args:
        patterns: paths and addresses of files, folders (read with all folders in them), or patterns with `*`, `?`, `[]`
            and `**`. Of a web server, folders end in `/`, are read without the folders in them, and patterns may be in
            the last part of an address.
        suffixes: of the files of folders that are wanted; empty for all. Files and folders whose names begin with a
            dot or an underscore are never taken from folders.
        retry: how long to wait for what is elsewhere.

    Returns:
        Each file once, sorted by path.

    Raises:
        DataError: a pattern matches nothing; the message names it.
        OutageError: a server is away.
    """
    retry = retry or Retry()
    found: dict[str, DataFile] = {}
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        matching = _matching(pattern, suffixes, retry)
        if not matching:
            wanted = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
            raise DataError(f"{pattern} matches no file{wanted}; give a file, a folder with files, or a pattern.")
        found.update((file.path, file) for file in matching)
    if not found:
        raise DataError("No file was named; give the path of a file, a folder or a pattern.")
    return tuple(found[path] for path in sorted(found))


def open_file(path: str, offset: int = 0, *, decompress: bool = False, retry: Retry | None = None) -> io.BufferedReader:
    """Open a file for reading.

    Args:
        path: as in `DataFile`.
        offset: byte at which reading begins.
        decompress: whether a file that is compressed (gzip, bzip2, xz, zstd, recognised by its content) is read
            decompressed; `offset` then counts decompressed bytes.
        retry: how long each read of a file elsewhere is repeated.

    Returns:
        A buffered file that can be moved about in; the caller closes it.

    Raises:
        DataError: the file is missing or may not be read; on reading, that it is damaged.
        OutageError: it is away, here or on reading.
    """
    raw = _open_local(path) if is_local(path) else _open_remote(path, 0 if decompress else offset, retry or Retry())
    try:
        file = decompressed(raw, path) if decompress else raw
        if file.tell() != offset:
            file.seek(offset)
    except BaseException:
        raw.close()
        raise
    return file


def fingerprints(files: Iterable[DataFile]) -> tuple[str, ...]:
    """The fingerprints of several files; two are read at a time."""
    with ThreadPoolExecutor(_DIGEST_THREADS, thread_name_prefix="digest") as executor:
        return tuple(executor.map(lambda file: file.fingerprint, files))


def _matching(pattern: str, suffixes: tuple[str, ...], retry: Retry) -> list[DataFile]:
    def wanted(path: str) -> bool:
        return not path.rpartition("/")[2].startswith((".", "_")) and (not suffixes or path.endswith(suffixes))

    if is_local(pattern):
        return _find_local(Path(pattern.removeprefix("file://")), wanted)
    from ganglion.data.files import (  # with what they need, not for those who read files of this machine
        object_store,
        web,
    )

    if not pattern.startswith(_WEB):
        return [DataFile(*found) for found in retried(lambda: object_store.find(pattern, wanted), retry, pattern)]
    folder = pattern.endswith("/")
    if not folder and "*" not in pattern.rpartition("/")[2]:
        return [_web_file(pattern, retry)]
    found = retried(lambda: web.listing(pattern, retry.timeout), retry, pattern)
    return [_web_file(url, retry) for url in found if not folder or wanted(url)]


def _web_file(url: str, retry: Retry) -> DataFile:
    from ganglion.data.files import web

    size, version = retried(lambda: web.examine(url, retry.timeout), retry, url)
    if size is None:
        with open_file(url, retry=retry) as file:
            size = sum(map(len, iter(lambda: file.read(BUFFER), b"")))
    return DataFile(url, size, version)


def _find_local(pattern: Path, wanted: Callable[[str], bool]) -> list[DataFile]:
    path = str(pattern.absolute())
    if os.path.isdir(path):
        found = []
        for folder, folders, names in os.walk(path, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
            found += [_local_file(os.path.join(folder, name)) for name in names if wanted(name)]
        return found
    if os.path.exists(path):  # also where a name has the signs of a pattern in it
        return [_local_file(path)]
    return [_local_file(match) for match in glob.iglob(path, recursive=True) if os.path.isfile(match)]


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"Cannot read {error.filename}: {error.strerror}.") from error


def _local_file(path: str) -> DataFile:
    try:
        found = os.stat(path)
    except OSError as error:
        _refuse(error)
    return DataFile(path, found.st_size, f"{found.st_size} {found.st_mtime_ns} {found.st_ino}")


def _open_local(path: str) -> io.BufferedReader:
    try:
        return Path(path.removeprefix("file://")).open("rb")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _open_remote(path: str, offset: int, retry: Retry) -> io.BufferedReader:
    from ganglion.data.files import object_store, web
    from ganglion.data.files.remote_file import Connection, RemoteFile

    def connect(position: int) -> Connection:
        if path.startswith(_WEB):
            return web.WebConnection(path, position, retry.timeout)
        return object_store.StoreConnection(path, position)

    return io.BufferedReader(RemoteFile(path, connect, offset, retry), BUFFER)


@lru_cache(_CACHED)
def _content_digest(path: str, version: str) -> str:
    with _open_local(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _local_file(path).version != version:
        raise DataError(f"{path} was changed after it was found; begin again with what it is now.")
    return f"sha256:{digest}"
