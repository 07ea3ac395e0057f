"""Prepared datasets: the records of a source as memory-mapped columns, ready to be gathered in any order.

A prepared dataset is a tree in the artifact store: the manifest, and for each shard one NPY file per column.

```
manifest.json      schema, number of records of each shard, fingerprint of the source
00000/image.npy    records 0 to n of the column `image`
00000/label.npy
00001/...
```

The digest of the tree is the identity of the dataset: the same records, cut into the same shards, have the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import DataError
from ganglion.data.columns import Array, Columns
from ganglion.data.schema import Field, Schema
from ganglion.data.source import check_range

KIND = "dataset"
"""Kind of the artifact of a prepared dataset."""

MANIFEST = "manifest.json"
"""Path of the manifest in the tree."""

FORMAT = 1
"""Version of the layout that is written and read."""


def column_path(shard: int, field: Field) -> str:
    """Path in the tree of one shard's part of a column."""
    return f"{shard:05d}/{field.name}.npy"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a prepared dataset consists of.

    Attributes:
        format: version of this layout.
        schema: the columns.
        shards: number of records of each shard, in the order of the records.
        source: fingerprint of the source.
    """

    format: int
    schema: Schema
    shards: tuple[int, ...]
    source: str


class PreparedDataset:
    """Columns on disk, opened read-only; any number of processes share the pages.

    Attributes:
        artifact: the dataset's identity.
        manifest: what it consists of.
        count: number of records.

    Args:
        artifact: the dataset.
        store: where it is kept.

    Raises:
        NotFoundError: the store does not have it.
        IntegrityError: its list of files or its manifest is damaged.
        DataError: the artifact is not a prepared dataset, or a shard is not of the size or schema that it should have.
    """

    def __init__(self, artifact: Artifact, store: FolderStore) -> None:
        self.artifact = artifact
        self._store = store
        self._files = store.tree(artifact)
        self.manifest = _read_manifest(artifact, store, self._files)
        self.count = sum(self.manifest.shards)
        self._starts = np.cumsum((0, *self.manifest.shards))
        self._shards = [
            {field.name: self._open(number, records, field) for field in self.manifest.schema}
            for number, records in enumerate(self.manifest.shards)
        ]

    @property
    def schema(self) -> Schema:
        """The columns."""
        return self.manifest.schema

    def take(self, records: npt.NDArray[np.integer]) -> Columns:
        """Gather records in any order, with repetition.

        Args:
            records: integers from 0 to `count` - 1, of shape `(n,)`.

        Returns:
            New arrays of shape `(n, *field.shape)` by column.

        Raises:
            DataError: a record is out of range.
        """
        if records.size and not 0 <= int(records.min()) <= int(records.max()) < self.count:
            raise DataError(
                f"Records {records.min()} to {records.max()} were asked for; the dataset has 0 to {self.count - 1}."
            )
        if len(self._shards) == 1:
            return {name: column.take(records, axis=0) for name, column in self._shards[0].items()}
        gathered = {f.name: np.empty((records.size, *f.shape), f.dtype) for f in self.schema}
        owners = np.searchsorted(self._starts, records, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            within = records[places] - self._starts[owner]
            for name, column in self._shards[owner].items():
                gathered[name][places] = column.take(within, axis=0)
        return gathered

    def slice(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive) by column; read-only views where they lie in one shard.

        Raises:
            DataError: the range is not within the dataset.
        """
        check_range(start, stop, self.count)
        first = int(np.searchsorted(self._starts[1:-1], start, side="right"))
        offset = int(self._starts[first])
        if stop <= self._starts[first + 1]:
            return {name: column[start - offset : stop - offset] for name, column in self._shards[first].items()}
        return self.take(np.arange(start, stop))

    def verify(self) -> None:
        """Read every byte and compare it with its digest.

        Raises:
            IntegrityError: a file is damaged; the message names it.
        """
        for blob in self._files.values():
            self._store.verify(blob)

    def _open(self, shard: int, records: int, field: Field) -> Array:
        name = column_path(shard, field)
        if name not in self._files:
            raise DataError(f"Dataset {self.artifact.digest} lacks {name}, which its manifest needs; prepare it again.")
        path = self._store.path(self._files[name])
        expected = (records, *field.shape), np.dtype(field.dtype)
        try:
            column: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DataError(
                f"{path} ({name} of dataset {self.artifact.digest}) is not a whole shard: {error}."
            ) from error
        if (column.shape, column.dtype) != expected or path.stat().st_size != self._files[name].size:
            raise DataError(
                f"{path} ({name} of dataset {self.artifact.digest}) holds {column.dtype} of shape {column.shape} in "
                f"{path.stat().st_size} bytes; expected {expected[1]} of shape {expected[0]} in "
                f"{self._files[name].size} bytes."
            )
        return column.view(np.ndarray)  # np.memmap makes every indexing slower, and is kept alive as the base


def open_dataset(artifact: Artifact, store: FolderStore) -> PreparedDataset:
    """Open a prepared dataset; errors as for `PreparedDataset`."""
    return PreparedDataset(artifact, store)


def _read_manifest(artifact: Artifact, store: FolderStore, files: Mapping[str, Artifact]) -> Manifest:
    if MANIFEST not in files:
        raise DataError(f"Artifact {artifact.digest} is not a prepared dataset: it has no {MANIFEST}.")
    try:
        manifest = msgspec.json.decode(store.read(files[MANIFEST]), type=Manifest)
    except msgspec.DecodeError as error:
        raise DataError(f"{MANIFEST} of dataset {artifact.digest} cannot be read: {error}.") from error
    if manifest.format != FORMAT:
        raise DataError(f"Dataset {artifact.digest} has format {manifest.format}; this version reads format {FORMAT}.")
    return manifest
