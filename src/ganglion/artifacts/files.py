"""Files that survive a crash: written, flushed to the disk and named in that order, and hashed on the way."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_CHUNK = 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether `text` is `sha256:` and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of `stream`, at most 1 MiB at a time."""
    while chunk := stream.read(_CHUNK):
        yield chunk


def digest_of(parts: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Digest and size in bytes of `parts`, one after the other."""
    state = hashlib.sha256()
    size = 0
    for part in parts:
        state.update(part)
        size += len(part)
    return f"sha256:{state.hexdigest()}", size


def digest_file(path: Path) -> tuple[str, int]:
    """Digest and size in bytes of a file, without holding it in memory."""
    with path.open("rb") as stream:
        return digest_of(chunks(stream))


def write_durably(path: Path, parts: Iterable[bytes | memoryview], *, mode: int = 0o644) -> tuple[str, int]:
    """Create `path` with `parts` and wait until the bytes are on the disk.

    Its name is durable only after `sync_folder` of its folder.

    Args:
        path: must not exist.
        parts: the content, consumed once.
        mode: permission bits of the finished file.

    Returns:
        Digest and size in bytes of what was written.
    """
    with path.open("xb") as stream:

        def written() -> Iterator[bytes | memoryview]:
            for part in parts:
                stream.write(part)
                yield part

        result = digest_of(written())
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
    return result


def replace_durably(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Make `path`, and the folders above it, hold `parts`: all of them or, after a crash, what was there before.

    Several processes may do so at once; the last one counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_durably(temporary, parts)
    os.replace(temporary, path)
    sync_folder(path.parent)


def copy_durably(source: Path, destination: Path, *, mode: int = 0o644) -> tuple[str, int]:
    """Copy a file to a new name, as `write_durably` writes it; returns digest and size of the copy."""
    with source.open("rb") as stream:
        return write_durably(destination, chunks(stream), mode=mode)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync_folder` of `folder` and every folder below it."""
    for parent, _folders, _files in os.walk(folder):
        sync_folder(Path(parent))


def path_problem(path: str) -> str:
    """Say why `path` cannot name a file inside a folder; empty when it can.

    Allowed are parts joined by `/`, none of which is empty, `.` or `..`.
    """
    if not path:
        return "it is empty"
    if path.startswith("/"):
        return "it is absolute"
    if "\0" in path:
        return "it has a zero byte"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "it has an empty part, '.' or '..'"
    return ""


def path_clash(paths: Iterable[str]) -> str:
    """One of `paths` that another needs as its folder; empty when all can exist together."""
    given = set(paths)
    for path in sorted(given):
        for parent in PurePosixPath(path).parents:
            if str(parent) in given:
                return str(parent)
    return ""
