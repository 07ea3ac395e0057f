"""A folder that keeps bytes under their digest: immutable, verified, safe with concurrent writers and crashes.

A blob is written under a temporary name in the same file system, flushed to the disk, made read-only and renamed to
its digest, so that what can be seen is complete. A folder is kept as a *tree*: one blob for each file and one JSON
blob that lists them.

```
store/
  blobs/ab/ab12...      content by the hexadecimal digits of its SHA-256
  incoming/             blobs that are being written; whatever a crash leaves here is never read
  lock                  shared by writers, held alone to delete
```
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from ganglion.artifacts import files
from ganglion.artifacts.trees import PREFIX, Tree, TreeFile, decode_tree, encode_tree, files_below, what_is
from ganglion.core import faults
from ganglion.core.errors import DataError, IntegrityError, NotFoundError, UserError


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable bytes, or a folder of them.

    Attributes:
        digest: `sha256:` and 64 hexadecimal digits.
        kind: what it is for whoever put it there, such as `dataset` or `model`; not part of the address.
        size: bytes of the content; of a tree, bytes of all its files.
    """

    digest: str
    kind: str
    size: int


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the store as it lies on the disk.

    Attributes:
        digest: of a blob; empty for what an interrupted write has left.
        path: where it is.
        size: in bytes.
        written: wall time in seconds when it was put last.
    """

    digest: str
    path: Path
    size: int
    written: float


class FolderStore:
    """A content-addressed folder.

    Any number of threads and processes may use one folder at the same time. Every method that takes an artifact also
    takes its digest alone.

    Args:
        root: the folder; created when something is first put into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._incoming = root / "incoming"

    def put_bytes(self, data: bytes, kind: str) -> Artifact:
        """Keep `data`; putting the same bytes again changes nothing."""
        return self.put_parts((data,), kind)

    def put_parts(self, parts: Iterable[bytes | memoryview], kind: str) -> Artifact:
        """Keep what `parts` are one after the other; they are consumed once and need never be in memory together."""
        digest, size = self._put(lambda temporary: files.write_durably(temporary, parts, mode=0o444))
        return Artifact(digest=digest, kind=kind, size=size)

    def put_file(self, path: Path, kind: str) -> Artifact:
        """Keep a copy of the file at `path`, hashed while it is copied.

        Raises:
            DataError: `path` is not a regular file.
        """
        if not path.is_file():
            raise DataError(f"{path} cannot be stored: it is {what_is(path)}, not a file.")
        digest, size = self._put(lambda temporary: files.copy_durably(path, temporary, mode=0o444))
        return Artifact(digest=digest, kind=kind, size=size)

    def put_tree(self, folder: Path, kind: str) -> Artifact:
        """Keep a copy of every file in `folder` and below.

        The digest depends on relative paths and contents alone. Permissions, times and empty folders are not kept.

        Raises:
            DataError: `folder` is not a folder, or holds something else than folders and regular files (a symbolic
                link, a socket) or a name that is not Unicode; nothing was stored.
        """
        return self.put_listing({path: self.put_file(folder / path, kind) for path in files_below(folder)}, kind)

    def put_listing(self, listed: Mapping[str, Artifact], kind: str) -> Artifact:
        """Keep a tree of blobs that are here already; nothing is copied.

        Args:
            listed: blobs by relative path, parts joined by `/`.
            kind: of the tree.

        Raises:
            NotFoundError: one of the blobs is not here.
            UserError: the paths cannot be laid out in a folder.
        """
        for blob in listed.values():
            self._renew(blob)
        entries = tuple(
            TreeFile(path=path, digest=listed[path].digest, size=listed[path].size) for path in sorted(listed)
        )
        encoded = encode_tree(Tree(files=entries))
        decode_tree(encoded)
        return Artifact(
            digest=self.put_bytes(encoded, kind).digest, kind=kind, size=sum(entry.size for entry in entries)
        )

    def path(self, artifact: Artifact | str) -> Path:
        """The local, immutable file that holds a blob; may be memory-mapped. Its content is not verified.

        Raises:
            NotFoundError: there is no such blob.
        """
        digest = _digest(artifact)
        path = self._place(digest)
        if not path.is_file():
            raise NotFoundError(f"There is no artifact {digest} in {self.root}.")
        return path

    def open(self, artifact: Artifact | str) -> BinaryIO:
        """A blob as a stream of bytes, for reading; not verified."""
        return self.path(artifact).open("rb")

    def read(self, artifact: Artifact | str) -> bytes:
        """All bytes of a blob, verified.

        Raises:
            NotFoundError: there is no such blob.
            IntegrityError: the bytes do not have this digest.
        """
        path = self.path(artifact)
        data = path.read_bytes()
        found, _ = files.digest_of((data,))
        _require(found, _digest(artifact), path)
        return data

    def verify(self, artifact: Artifact | str) -> None:
        """Read a blob through and compare it with its digest.

        Raises:
            NotFoundError: there is no such blob.
            IntegrityError: the bytes do not have this digest; the message names the digest and the file.
        """
        path = self.path(artifact)
        found, _ = files.digest_file(path)
        _require(found, _digest(artifact), path)

    def tree(self, artifact: Artifact | str) -> dict[str, Artifact]:
        """The files of a tree by relative path; their kind is the tree's where an `Artifact` is given, else empty.

        Raises:
            NotFoundError: there is no such blob.
            IntegrityError: the blob is damaged.
            UserError: the blob is not a tree, or names a path outside of its folder.
        """
        tree = self._read_tree(_digest(artifact))
        if tree is None:
            raise UserError(f"Artifact {_digest(artifact)} is a single blob, not a folder.")
        kind = artifact.kind if isinstance(artifact, Artifact) else ""
        return {entry.path: Artifact(digest=entry.digest, kind=kind, size=entry.size) for entry in tree.files}

    def copy_tree(self, artifact: Artifact | str, destination: Path) -> None:
        """Copy a tree to `destination`, which appears complete or not at all.

        Every byte is verified on the way.

        Args:
            artifact: a tree.
            destination: must not exist; its parent folders are created.

        Raises:
            NotFoundError: the tree or one of its blobs is absent.
            IntegrityError: a blob is damaged.
            UserError: `destination` exists, or the artifact is not a tree that can be laid out in a folder.
        """
        listed = self.tree(artifact)
        if os.path.lexists(destination):
            raise _occupied(destination)
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}")
        temporary.mkdir()
        try:
            for path, blob in listed.items():
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                source = self.path(blob)
                found, _ = files.copy_durably(source, target)
                _require(found, blob.digest, source)
            files.sync_tree(temporary)
            faults.point("artifacts.copy", destination=str(destination))
            _rename_folder(temporary, destination)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        files.sync_folder(destination.parent)

    def references(self, artifact: Artifact | str) -> tuple[str, ...]:
        """Digests of the blobs that a tree consists of, in order of path; empty for a single blob."""
        tree = self._read_tree(_digest(artifact))
        return () if tree is None else tuple(dict.fromkeys(entry.digest for entry in tree.files))

    def __contains__(self, artifact: Artifact | str) -> bool:
        digest = artifact if isinstance(artifact, str) else artifact.digest
        return files.is_digest(digest) and self._place(digest).is_file()

    def digests(self) -> Iterator[tuple[str, int]]:
        """Digest and size in bytes of every blob, in order of digest."""
        return ((blob.digest, blob.size) for blob in self.blobs())

    def blobs(self) -> Iterator[StoredFile]:
        """Every blob, in order of digest."""
        for path in sorted(self._blobs.glob("??/*")):
            yield from _stored_file(path, f"sha256:{path.name}")

    def remains(self) -> Iterator[StoredFile]:
        """What is being written, and what interrupted writes have left."""
        for path in sorted(self._incoming.glob("*")):
            yield from _stored_file(path, "")

    def delete(self, artifact: Artifact | str, *, unless_put_since: float | None = None) -> bool:
        """Remove a blob; the files of a tree stay.

        Args:
            artifact: what to remove.
            unless_put_since: wall time in seconds; a blob that was put, or put again, after it stays.

        Returns:
            Whether it was there and is gone now.
        """
        path = self._place(_digest(artifact))
        if not path.is_file():
            return False
        with self._lock(fcntl.LOCK_EX):
            try:
                if unless_put_since is not None and path.stat().st_mtime > unless_put_since:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def _put(self, write: Callable[[Path], tuple[str, int]]) -> tuple[str, int]:
        """Let `write` fill a temporary file and name it by its digest.

        A blob of the same name is replaced, not kept: that renews its time, which protects it from being collected
        before it is referred to, and repairs it if it was damaged.
        """
        self._incoming.mkdir(parents=True, exist_ok=True)
        temporary = self._incoming / secrets.token_hex(16)
        try:
            digest, size = write(temporary)
            place = self._place(digest)
            if not place.parent.is_dir():
                place.parent.mkdir(parents=True, exist_ok=True)
                files.sync_folder(self._blobs)
            faults.point("artifacts.commit", digest=digest, temporary=str(temporary), path=str(place))
            with self._lock(fcntl.LOCK_SH):
                temporary.rename(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        files.sync_folder(place.parent)
        return digest, size

    def _renew(self, artifact: Artifact) -> None:
        """Protect a blob from being collected before a tree that is about to be put refers to it."""
        path = self.path(artifact)
        with self._lock(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except FileNotFoundError as error:
                raise NotFoundError(f"There is no artifact {artifact.digest} in {self.root}.") from error

    def _place(self, digest: str) -> Path:
        hexadecimal = digest.removeprefix("sha256:")
        return self._blobs / hexadecimal[:2] / hexadecimal

    @contextmanager
    def _lock(self, operation: int) -> Iterator[None]:
        with (self.root / "lock").open("ab") as stream:
            fcntl.flock(stream, operation)
            yield

    def _read_tree(self, digest: str) -> Tree | None:
        with self.open(digest) as stream:
            if stream.read(len(PREFIX)) != PREFIX:
                return None
        return decode_tree(self.read(digest))


def _digest(artifact: Artifact | str) -> str:
    digest = artifact if isinstance(artifact, str) else artifact.digest
    if not files.is_digest(digest):
        raise NotFoundError(f"{digest!r} is not a digest; write sha256: and 64 lower-case hexadecimal digits.")
    return digest


def _require(found: str, digest: str, path: Path) -> None:
    if found != digest:
        raise IntegrityError(f"Artifact {digest} is damaged: {path} holds {found}. Delete that file and make it again.")


def _rename_folder(source: Path, destination: Path) -> None:
    try:
        source.rename(destination)
    except OSError as error:
        if os.path.lexists(destination):  # somebody was faster
            raise _occupied(destination) from error
        raise


def _occupied(destination: Path) -> UserError:
    return UserError(f"{destination} exists already; give a place that does not.")


def _stored_file(path: Path, digest: str) -> Iterator[StoredFile]:
    with suppress(FileNotFoundError):  # gone since it was listed
        status = path.stat()
        yield StoredFile(digest=digest, path=path, size=status.st_size, written=status.st_mtime)
