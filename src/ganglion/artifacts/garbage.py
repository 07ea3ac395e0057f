"""What nothing refers to any more, and its removal."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ganglion.artifacts.store import FolderStore, StoredFile

GRACE = 3600.0
"""Seconds for which what was just put stays without a reference: a step refers to its outputs only when it ends."""


class Garbage(msgspec.Struct, frozen=True, kw_only=True):
    """What can go.

    Attributes:
        blobs: blobs that nothing refers to, in order of digest.
        remains: what interrupted writes have left.
    """

    blobs: tuple[StoredFile, ...] = ()
    remains: tuple[StoredFile, ...] = ()

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.size for file in (*self.blobs, *self.remains))


def find_garbage(store: FolderStore, referenced: Iterable[str], *, now: float, grace: float = GRACE) -> Garbage:
    """List what no run or model refers to; nothing is changed.

    Args:
        store: where to look.
        referenced: digests that are still referred to; the files of a referenced tree are kept with it. Digests that
            the store does not hold are ignored.
        now: wall time in seconds.
        grace: what was written less than so many seconds ago is not listed.

    Raises:
        IntegrityError: a referenced tree is damaged, so that what it refers to is not known.
    """
    kept = set(referenced)
    kept.update(*(store.references(digest) for digest in tuple(kept) if digest in store))
    oldest = now - grace
    return Garbage(
        blobs=tuple(blob for blob in store.blobs() if blob.digest not in kept and blob.written <= oldest),
        remains=tuple(file for file in store.remains() if file.written <= oldest),
    )


def remove_garbage(store: FolderStore, garbage: Garbage) -> int:
    """Remove what `find_garbage` listed, except blobs that were put again meanwhile.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    for blob in garbage.blobs:
        if store.delete(blob.digest, unless_put_since=blob.written):
            freed += blob.size
    for file in garbage.remains:
        file.path.unlink(missing_ok=True)
        freed += file.size
    return freed
