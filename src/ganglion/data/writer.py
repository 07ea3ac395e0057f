"""Preparation: the records of a source written to the artifact store, in memory bounded by a chunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data.columns import Columns
from ganglion.data.fingerprint import little_endian_bytes
from ganglion.data.prepared import FORMAT, KIND, MANIFEST, Manifest, PreparedDataset, column_path
from ganglion.data.schema import Field, Schema, records_within
from ganglion.data.source import PlainSource

SHARD_BYTES = 256 * 2**20
"""Largest shard where no number of shards is asked for."""

CHUNK_BYTES = 8 * 2**20
"""How much is held in memory at a time where nothing else is said."""


def prepare(
    source: PlainSource, store: FolderStore, *, shards: int | None = None, chunk_bytes: int = CHUNK_BYTES
) -> PreparedDataset:
    """Write the records of a source to the store as a prepared dataset.

    Args:
        source: read through twice: first for its fingerprint, so that nothing is written when it is damaged, then to
            copy it.
        store: where the dataset is kept.
        shards: how many shards; they differ by at most one record, and there are never more than records. `None`
            takes as few as keep each within `SHARD_BYTES`.
        chunk_bytes: how much is held in memory at a time (one record at least); it does not change the result.

    Returns:
        The dataset, opened; `artifact` is its identity.

    Raises:
        DataError: the source is missing, damaged, empty, or yields records that do not have its schema.
    """
    schema, count = source.schema, source.count
    _check_schema(schema)
    if count == 0:
        raise DataError("The source has no records; a dataset needs at least one.")
    sizes = _shard_sizes(schema, count, shards)
    manifest = Manifest(format=FORMAT, schema=schema, shards=sizes, source=source.fingerprint())
    with TemporaryDirectory(prefix="ganglion-prepare-") as temporary:
        folder = Path(temporary)
        batches = _checked(source.scan(records_within(schema, chunk_bytes)), schema, count)
        for shard, pieces in groupby(_cut(batches, sizes), key=itemgetter(0)):
            _write_shard(folder, shard, sizes[shard], schema, (columns for _, columns in pieces))
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        return PreparedDataset(store.put_tree(folder, KIND), store)


def _shard_sizes(schema: Schema, count: int, shards: int | None) -> tuple[int, ...]:
    if shards is not None and shards < 1:
        raise DataError(f"{shards} shards were asked for; at least 1 is needed.")
    wanted = -(-count // records_within(schema, SHARD_BYTES)) if shards is None else min(shards, count)
    return tuple(count * (shard + 1) // wanted - count * shard // wanted for shard in range(wanted))


def _check_schema(schema: Schema) -> None:
    for field in schema:
        if not field.name.isidentifier():
            raise DataError(f"A column is named {field.name!r}; letters, digits and underscores are allowed.")
        if field.record_bytes == 0:
            raise DataError(f"Records of {field} hold no values; every dimension must be at least 1.")
    if len({field.name for field in schema}) != len(schema) or not schema:
        raise DataError(f"A source needs columns of different names; given: {', '.join(map(str, schema)) or 'none'}.")


def _checked(batches: Iterator[Columns], schema: Schema, count: int) -> Iterator[Columns]:
    """Pass batches on that have the schema, and see that they are `count` records in all."""
    seen = 0
    for batch in batches:
        found = tuple(Field.of(name, column) for name, column in batch.items())
        records = {len(column) for column in batch.values()}
        if set(found) != set(schema) or len(records) != 1:
            raise DataError(
                f"After record {seen} the source yields {', '.join(map(str, found)) or 'nothing'} (records: "
                f"{sorted(records)}); its schema is {', '.join(map(str, schema))}."
            )
        seen += records.pop()
        if seen > count:
            break
        yield batch
    if seen != count:
        raise DataError(f"The source announced {count} records and yields {seen}{' or more' * (seen > count)}.")


def _cut(batches: Iterator[Columns], sizes: tuple[int, ...]) -> Iterator[tuple[int, Columns]]:
    """Cut batches where shards end; yields the number of a shard with each piece of it."""
    shard, room = 0, sizes[0]
    for batch in batches:
        records, start = len(next(iter(batch.values()))), 0
        while start < records:
            if room == 0:
                shard, room = shard + 1, sizes[shard + 1]
            stop = min(records, start + room)
            yield shard, {name: column[start:stop] for name, column in batch.items()}
            start, room = stop, room - (stop - start)


def _write_shard(folder: Path, shard: int, records: int, schema: Schema, pieces: Iterator[Columns]) -> None:
    with ExitStack() as stack:
        files = {}
        for field in schema:
            path = folder / column_path(shard, field)
            path.parent.mkdir(exist_ok=True)
            files[field.name] = stack.enter_context(path.open("xb"))
            little = np.dtype(field.dtype).newbyteorder("<")
            header = {**header_data_from_array_1_0(np.empty(0, little)), "shape": (records, *field.shape)}
            write_array_header_1_0(files[field.name], header)
        for piece in pieces:
            for name, file in files.items():
                file.write(little_endian_bytes(piece[name]))
