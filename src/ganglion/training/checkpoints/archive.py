"""A folder of checkpoints: each appears complete or not at all, and each is verified before it is used.

A checkpoint is made in a folder whose name begins with a dot, flushed to the disk and then renamed. Where a state is
spread over several processes, each writes its own files there, and one of them, the chief, publishes the manifest last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from ganglion.artifacts.files import sync_folder, write_durably
from ganglion.core import faults
from ganglion.core.errors import IntegrityError
from ganglion.training.checkpoints import manifest as manifests
from ganglion.training.checkpoints.manifest import File, Manifest

_CHUNK = 2**22
"""Bytes that are written at once."""

_REPLACED = ".replaced"
"""End of the name of a checkpoint that another of the same step takes the place of."""

_SUM = 2**19
"""Bytes whose checksum is computed at once: nothing else runs in this process meanwhile."""


class Archive:
    """The checkpoints of one training.

    Args:
        folder: that they lie in; made when the first is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps of all checkpoints, the newest first; none of them verified."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted((int(name) for name in names if name.isdecimal() and str(int(name)) == name), reverse=True)

    def manifest(self, step: int) -> Manifest:
        """The manifest of a checkpoint, itself verified.

        Raises:
            IntegrityError: it is not there, or not what was written.
            ConfigurationError: it has another format.
        """
        path = self.folder / str(step) / manifests.NAME
        try:
            found = manifests.decode(path.read_bytes())
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error.strerror}.") from error
        except IntegrityError as error:
            raise IntegrityError(f"{path.parent} is damaged: {error}") from error
        if found.progress.step != step:
            raise IntegrityError(f"{path.parent} is damaged: its manifest is of step {found.progress.step}.")
        return found

    def newest(self) -> Manifest | None:
        """The newest manifest that is undamaged, whatever became of the files; `None` where there is none.

        Raises:
            ConfigurationError: it has another format.
        """
        for step in self.steps():
            with contextlib.suppress(IntegrityError):
                return self.manifest(step)
        return None

    def verify(self, step: int) -> Manifest:
        """Check every byte of a checkpoint.

        Raises:
            IntegrityError: a file is missing, was cut off or changed.
            ConfigurationError: it has another format.
        """
        found = self.manifest(step)
        for file in found.files:
            path = self.folder / str(step) / file.name
            try:
                size, checksum = _read(path)
            except OSError as error:
                raise IntegrityError(f"{path} is damaged: it cannot be read: {error.strerror}.") from error
            if size != file.size:
                raise IntegrityError(f"{path} is damaged: it has {size} bytes; {file.size} were written.")
            if checksum != file.crc32c:
                raise IntegrityError(f"{path} is damaged: its bytes are not those that were written.")
        return found

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that writes; others wait, where the file system knows locks (flock(2)).

        The chief writes, and whoever has to make the state safe before it waits or leaves.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def begin(self, step: int) -> Path:
        """A new folder to write the files of a checkpoint to; what an earlier process left unfinished goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        folder = self.folder / f".{step}"
        folder.mkdir()
        return folder

    def publish(self, folder: Path, manifest: Manifest) -> None:
        """Make a checkpoint of the files in `folder`; it takes the place of one of the same step.

        That one is not removed before the new one is there: see `recover`.
        """
        faults.point("training.checkpoint_publish", step=manifest.progress.step)
        write_durably(folder / manifests.NAME, [manifests.encode(manifest)])
        sync_folder(folder)
        place = self.folder / str(manifest.progress.step)
        replaced = self.folder / f".{place.name}{_REPLACED}"
        if place.exists():
            place.rename(replaced)
        faults.point("training.checkpoint_replace", step=manifest.progress.step)
        folder.rename(place)
        sync_folder(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def discard(self, step: int) -> None:
        """Remove a checkpoint, if it is there; half of it is never seen."""
        with contextlib.suppress(FileNotFoundError):
            doomed = self.folder / f".{step}.discarded"
            (self.folder / str(step)).rename(doomed)
            shutil.rmtree(doomed)

    def recover(self) -> None:
        """Put back what was about to be replaced when its process ended; for a process that is alone here."""
        for folder in self.folder.glob(f".*{_REPLACED}"):
            place = self.folder / folder.name[1:].removesuffix(_REPLACED)
            if not place.exists():
                folder.rename(place)

    def sweep(self) -> None:
        """Remove what was left unfinished; only for the one process that writes checkpoints."""
        self.recover()
        for folder in self.folder.glob(".*"):
            shutil.rmtree(folder)


def write_file(path: Path, data: memoryview, size: int) -> File:
    """Write a file and wait until it is on the disk, past the page cache where the file system can do that.

    Bytes that go through the page cache are copied by the processor, which the training needs.

    Args:
        path: must not exist.
        data: the content, in memory from a page on, filled up to a whole page.
        size: bytes that the file is to have.

    Raises:
        OSError: the disk is full, or fails.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems say that cannot
            raise
        path.unlink(missing_ok=True)  # some have made the file all the same
        descriptor = os.open(path, flags, 0o644)
    checksum = 0
    try:
        for begin in range(0, len(data), _CHUNK):
            chunk = data[begin : begin + _CHUNK]
            checksum = _extend(checksum, chunk[: max(0, size - begin)])
            _write(descriptor, chunk, begin)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return File(name=path.name, size=size, crc32c=checksum)


def write_plain(path: Path, data: bytes) -> File:
    """Write a small file and wait until it is on the disk."""
    write_durably(path, [data])
    return File(name=path.name, size=len(data), crc32c=google_crc32c.value(data))


def _write(descriptor: int, chunk: memoryview, offset: int) -> None:
    written = 0
    while written < len(chunk):
        count = os.pwrite(descriptor, chunk[written:], offset + written)
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += count


def _read(path: Path) -> tuple[int, int]:
    """Size and checksum of a file."""
    size = checksum = 0
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
            checksum = _extend(checksum, buffer[:count])
    return size, checksum


def _extend(checksum: int, data: memoryview) -> int:
    array = np.frombuffer(data, np.uint8)
    for begin in range(0, len(array), _SUM):
        checksum = google_crc32c.extend(checksum, array[begin : begin + _SUM])
    return checksum
