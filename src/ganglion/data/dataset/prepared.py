"""Prepared datasets: the records of a source as memory-mapped columns, ready to be gathered in any order.

What one consists of is said in `manifest`, how its files are laid out in `arrow_layout`; `prepare` makes it. A dataset
of records of fixed length is opened without Arrow, whose import takes longer than everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import DataError, IntegrityError, suggest
from ganglion.data.dataset.arrow_layout import IDS
from ganglion.data.dataset.balance import Shards, divide
from ganglion.data.dataset.checksum import BLOCK, count_blocks, damaged_blocks
from ganglion.data.dataset.gather import Gather
from ganglion.data.dataset.manifest import MANIFEST, Manifest, checksums_path, decode_manifest
from ganglion.data.dataset.segment import MappedSegment
from ganglion.data.records import columns as columnwise
from ganglion.data.records.batch import Ids
from ganglion.data.records.columns import Columns
from ganglion.data.records.hashing import hash_values, owners
from ganglion.data.records.schema import Schema
from ganglion.data.source import check_range

if TYPE_CHECKING:
    from ganglion.data.records.bad_record import BadRecord

_AT_ONCE = 2**16  # records whose keys are hashed at a time


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a segment that are not what was written.

    Attributes:
        path: of the segment in the dataset.
        start: first byte of the block.
        stop: end of the block, exclusive.
        columns: that have bytes in it; none where only metadata is hit.
    """

    path: str
    start: int
    stop: int
    columns: tuple[str, ...]


class PreparedDataset:
    """Columns on disk, opened read-only; any number of processes share the pages.

    Attributes:
        artifact: the dataset's identity.
        store: where it is kept.
        manifest: what it consists of.
        count: number of records.
        generations: number of records up to the end of each generation, such as `(60000, 66000)`.
        files: blobs by path in the tree.
        segments: the mapped files, in the order of the records.
        starts: number of the first record of each segment, and `count`.

    Args:
        artifact: the dataset.
        store: where it is kept.

    Raises:
        NotFoundError: the store does not have it.
        IntegrityError: its list of files or its manifest is damaged.
        DataError: the artifact is not a prepared dataset or one of another format, or a segment is not of the size
            that it should have.
    """

    def __init__(self, artifact: Artifact, store: FolderStore) -> None:
        self.artifact = artifact
        self.store = store
        self.files = store.tree(artifact)
        if MANIFEST not in self.files:
            raise DataError(f"Artifact {artifact.digest} is not a prepared dataset: it has no {MANIFEST}.")
        self.manifest: Manifest = decode_manifest(store.read(self.files[MANIFEST]), artifact.digest)
        self.count = self.manifest.count
        self.generations = self.manifest.generations
        self.segments = tuple(
            MappedSegment(store.path(segment.digest), segment, self.schema, artifact.digest)
            for segment in self.manifest.segments
        )
        self.starts: npt.NDArray[np.int64] = np.cumsum([0, *(segment.records for segment in self.manifest.segments)])

    @property
    def schema(self) -> Schema:
        """The columns."""
        return self.manifest.schema

    def take(self, records: npt.NDArray[np.integer], columns: Sequence[str] | None = None) -> Columns:
        """Gather records in any order, with repetition.

        Args:
            records: integers from 0 to `count` - 1, of shape `(n,)`.
            columns: which columns are read; all if `None`.

        Returns:
            New arrays of shape `(n, *field.shape)` by column; Arrow arrays of columns without fixed length.

        Raises:
            DataError: a record is out of range, or there is no such column.
        """
        return self.gather.take(records, columns)

    def ids(self, records: npt.NDArray[np.integer]) -> Ids:
        """Ids of records.

        Args:
            records: as for `take`.

        Raises:
            DataError: a record is out of range.
        """
        found = self._ids.take(records)[IDS]
        assert isinstance(found, np.ndarray), "ids are numbers"
        return found

    @cached_property
    def gather(self) -> Gather:
        """What takes records out of all segments."""
        return Gather([segment.columns for segment in self.segments])

    @cached_property
    def _ids(self) -> Gather:
        return Gather([{IDS: segment.ids} for segment in self.segments])

    def slice(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive) by column; read-only views where they lie in one segment.

        Raises:
            DataError: the range is not within the dataset.
        """
        check_range(start, stop, self.count)
        pieces: list[Columns] = []
        for number in range(self._segment(start), len(self.segments)):
            begin = int(self.starts[number])
            if begin >= stop and pieces:
                break
            first, last = max(0, start - begin), min(self.segments[number].segment.records, stop - begin)
            pieces.append(columnwise.part(self.segments[number].columns, first, last))
        return columnwise.join(pieces)

    def shards(self, weights: Sequence[float]) -> Shards:
        """Divide the records among workers, neighbours together; see `balance.divide` and `balance.rebalance`."""
        return divide(self.count, weights)

    def shards_by_key(self, column: str, weights: Sequence[float]) -> tuple[npt.NDArray[np.int64], ...]:
        """Divide the records among workers so that equal keys go to the same one, also when the dataset grows.

        With another worker, only what it gets moves; see `hashing`.

        Args:
            column: the key: single numbers, text or bytes.
            weights: one positive number for each worker, its share of the keys.

        Returns:
            For each worker the numbers of its records, ascending.

        Raises:
            DataError: there is no such column, or it has several values to a record.
        """
        names = [field.name for field in self.schema]
        if column not in names:
            raise DataError(f"The dataset has no column {column!r}. {suggest(column, names)}")
        owner = np.empty(self.count, np.int64)
        for segment, begin in zip(self.segments, self.starts.tolist(), strict=False):
            for first in range(0, segment.segment.records, _AT_ONCE):
                keys = segment.columns[column][first : first + _AT_ONCE]
                owner[begin + first : begin + first + len(keys)] = owners(hash_values(keys), weights)
        return tuple(np.flatnonzero(owner == worker) for worker in range(len(weights)))

    def quarantine(self) -> Iterator[BadRecord]:
        """The bad records that were set aside, by generation and in the order in which they were found."""
        from ganglion.data.dataset.quarantine import read_quarantine

        for path, blob in self.files.items():
            if "/quarantine-" in path:
                yield from read_quarantine(self.store.path(blob))

    def damage(self) -> Iterator[Damage]:
        """Read every segment and compare it with its checksums.

        Returns:
            Blocks that are not what was written, in order; nothing of a sound dataset.

        Raises:
            IntegrityError: the list of checksums itself is damaged.
        """
        remaining: dict[int, bytes] = {}
        for segment in self.segments:
            generation, size = segment.segment.generation, 4 * count_blocks(segment.segment.size)
            if generation not in remaining:
                remaining[generation] = self.store.read(self.files[checksums_path(generation)])
            checksums, remaining[generation] = remaining[generation][:size], remaining[generation][size:]
            for block in damaged_blocks(segment.path, segment.segment.size, checksums):
                yield _damage(segment, block)

    def verify(self) -> None:
        """Read every byte and compare it with what was written.

        Raises:
            IntegrityError: bytes are damaged; the message says where.
        """
        for path, blob in self.files.items():
            if not path.endswith(".arrow"):
                self.store.verify(blob)
        damage = list(self.damage())
        if damage:
            places = "; ".join(
                f"{one.path} bytes {one.start} to {one.stop} ({', '.join(one.columns) or 'metadata'})"
                for one in damage[:3]
            )
            raise IntegrityError(
                f"Dataset {self.artifact.digest} is damaged in {len(damage)} blocks: {places}"
                f"{' and others' * (len(damage) > 3)}. Delete these files of {self.store.root} and prepare it again."
            )

    def _segment(self, record: int) -> int:
        return int(np.searchsorted(self.starts[1:-1], record, side="right"))


def _damage(segment: MappedSegment, block: int) -> Damage:
    start, stop = block * BLOCK, min((block + 1) * BLOCK, segment.segment.size)
    hit = [
        name
        for name, buffers in segment.segment.columns.items()
        if any(buffer.offset < stop and buffer.offset + buffer.size > start for buffer in buffers)
    ]
    return Damage(path=segment.segment.path, start=start, stop=stop, columns=tuple(hit))


def open_dataset(artifact: Artifact, store: FolderStore) -> PreparedDataset:
    """Open a prepared dataset; errors as for `PreparedDataset`."""
    return PreparedDataset(artifact, store)
