"""Files in object stores and other places that fsspec knows: found, and read from any place on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ganglion.core.errors import DataError, suggest

_BLOCK = 4 * 2**20
_PATTERN = "*?["
_VERSIONS = (  # what the various stores call that which changes with the content, the most telling first
    *("ETag", "etag", "md5Hash", "md5", "content_md5", "checksum", "generation", "VersionId"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)


class StoreConnection:
    """The bytes of a file from one place to its end.

    Attributes:
        size: bytes of the whole file.
        version: changes when the file changes; empty where the store does not say.

    Args:
        url: of the file, with its scheme.
        position: of the first byte that is wanted.

    Raises:
        DataError: the scheme is unknown, or its library is not installed.
        OSError: the store cannot be reached or does not have the file.
    """

    def __init__(self, url: str, position: int) -> None:
        store, path = _store(url)
        info = store.info(path)
        self.size: int | None = info.get("size")
        self.version = _version(info)
        self._file = store.open(path, "rb", block_size=_BLOCK)
        self._file.seek(position)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer` and return how many bytes; 0 at the end."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def find(pattern: str, wanted: Callable[[str], bool]) -> list[tuple[str, int, str]]:
    """Find files.

    Args:
        pattern: a file, a folder, or a pattern, with its scheme.
        wanted: whether a file of a folder is taken.

    Returns:
        Address, size and version of each; none where nothing matches.

    Raises:
        DataError, OSError: as for `StoreConnection`.
    """
    store, path = _store(pattern)
    store.invalidate_cache()
    stripped = pattern.rstrip("/")
    prefix = stripped.removesuffix(path) if stripped.endswith(path) else f"{pattern.partition('://')[0]}://"
    if any(sign in path for sign in _PATTERN):
        found = store.glob(path, detail=True)
    else:
        try:
            info = store.info(path)
        except FileNotFoundError:
            return []
        if info["type"] != "directory":
            return [(pattern, info["size"], _version(info))]
        found = {name: info for name, info in store.find(path, detail=True).items() if wanted(name)}
    return [(prefix + name, info["size"], _version(info)) for name, info in found.items() if info["type"] == "file"]


def _store(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    scheme = url.partition("://")[0]
    if scheme not in known_implementations:
        raise DataError(f"{url} has the unknown scheme {scheme!r}. {suggest(scheme, known_implementations)}")
    try:
        store, path = url_to_fs(url)
    except ImportError as error:
        raise DataError(f"Files under {scheme}:// need a library that is not here: {error}.") from error
    return store, path


def _version(info: Mapping[str, Any]) -> str:
    told = next((info[key] for key in _VERSIONS if info.get(key)), "")
    return f"{told} {info.get('size')}" if told else ""
