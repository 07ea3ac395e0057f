"""Damage of a prepared dataset: which files, where on the disk, and which records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape

from ganglion.cli.data_dataset import counted, open_digest
from ganglion.cli.output import make_table
from ganglion.core.errors import DataError, IntegrityError, NotFoundError
from ganglion.core.resources import format_size

if TYPE_CHECKING:
    import numpy as np

    from ganglion.artifacts.store import Artifact, FolderStore
    from ganglion.data import PreparedDataset
    from ganglion.data.dataset.manifest import Manifest
    from ganglion.data.dataset.prepared import Damage
    from ganglion.data.dataset.segment import MappedSegment


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a dataset that is not what was written.

    Attributes:
        file: in the dataset.
        path: on the disk.
        problem: what is wrong.
        bytes: first and end (exclusive) of the part; `None` for the whole file.
        columns: that have values there.
        records: first and end (exclusive) of the records of the dataset that have values there; `None` where no record
            is hit.
    """

    file: str
    path: Path
    problem: str
    bytes: tuple[int, int] | None = None
    columns: tuple[str, ...] = ()
    records: tuple[int, int] | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at every byte has found.

    Attributes:
        files: that were read.
        size: their bytes.
        damaged: parts that are not what was written; none of a sound dataset.
    """

    files: int
    size: int
    damaged: tuple[Damaged, ...]


def verify_dataset(digest: str, store: FolderStore) -> Verified:
    """Read every byte of a dataset and compare it with what was written.

    Raises:
        NotFoundError: the store does not have the dataset.
        IntegrityError: the list of its files, or its manifest, is damaged, so that nothing else can be told.
        DataError: it is something else than a dataset.
    """
    from ganglion.data.dataset.manifest import MANIFEST, decode_manifest

    files = store.tree(digest)
    if MANIFEST not in files:
        raise DataError(f"Artifact {digest} is not a prepared dataset: it has no {MANIFEST}.")
    manifest = decode_manifest(store.read(files[MANIFEST]), digest)
    damaged = [found for path, blob in files.items() for found in _wrong_size(path, blob, store, manifest)]
    wrong = {found.file for found in damaged}
    whole = [path for path in files if path not in wrong and (wrong or not path.endswith(".arrow"))]
    damaged += [found for path in whole for found in _wrong_digest(path, files[path], store, manifest)]
    if not damaged:
        dataset = open_digest(digest, store)
        damaged += [_block(dataset, damage) for damage in dataset.damage()]
    return Verified(files=len(files), size=sum(blob.size for blob in files.values()), damaged=tuple(_joined(damaged)))


def describe_verified(verified: Verified) -> dict[str, Any]:
    """What was found, as plain data."""
    return {
        "files": verified.files,
        "size": verified.size,
        "damaged": [msgspec.to_builtins(one, enc_hook=str) for one in verified.damaged],
    }


def print_verified(digest: str, verified: Verified, out: Console) -> None:
    """Show what was found."""
    if not verified.damaged:
        files = counted(verified.files, "file")
        out.print(f"[green]sound[/] {digest}: {files}, {format_size(verified.size)}", soft_wrap=True)
        return
    out.print(f"[bold red]damaged[/] {digest} in {counted(len(verified.damaged), 'part')}", soft_wrap=True)
    table = make_table("file", ">bytes", "columns", ">records", "problem")
    for one in verified.damaged:
        table.add_row(
            escape(one.file),
            _range(one.bytes),
            escape(", ".join(one.columns)),
            _range(one.records),
            escape(one.problem),
        )
    out.print(table)
    for path in dict.fromkeys(str(one.path) for one in verified.damaged):
        out.print(f"  {escape(path)}", soft_wrap=True)
    out.print("Delete these files, and prepare the dataset again from its source.", soft_wrap=True)


def _range(of: tuple[int, int] | None) -> str:
    return "" if of is None else f"{of[0]:,} to {of[1] - 1:,}"


def _wrong_size(path: str, blob: Artifact, store: FolderStore, manifest: Manifest) -> list[Damaged]:
    """A file that is not there, or not of its size."""
    try:
        place = store.path(blob)
    except NotFoundError:
        place = store.root / "blobs" / blob.digest[7:9] / blob.digest.removeprefix("sha256:")
        return [_whole(path, place, "the file is missing", manifest)]
    size = place.stat().st_size
    if size == blob.size:
        return []
    return [_whole(path, place, f"it has {size:,} bytes; {blob.size:,} were written", manifest)]


def _wrong_digest(path: str, blob: Artifact, store: FolderStore, manifest: Manifest) -> list[Damaged]:
    try:
        store.verify(blob)
    except IntegrityError:
        return [_whole(path, store.path(blob), "its bytes are not those that were written", manifest)]
    return []


def _whole(path: str, place: Path, problem: str, manifest: Manifest) -> Damaged:
    """A whole file; of a segment with all its records."""
    first = 0
    for segment in manifest.segments:
        if segment.path == path:
            records = (first, first + segment.records)
            columns = tuple(field.name for field in manifest.schema)
            return Damaged(file=path, path=place, problem=problem, columns=columns, records=records)
        first += segment.records
    return Damaged(file=path, path=place, problem=problem)


def _block(dataset: PreparedDataset, damage: Damage) -> Damaged:
    """A damaged block of a segment, with the records that have bytes in it."""
    number = next(place for place, segment in enumerate(dataset.segments) if segment.segment.path == damage.path)
    segment, begin = dataset.segments[number], int(dataset.starts[number])
    hit = [found for name in damage.columns for found in _records(segment, name, damage.start, damage.stop)]
    return Damaged(
        file=damage.path,
        path=segment.path,
        problem="its bytes do not match their checksum",
        bytes=(damage.start, damage.stop),
        columns=damage.columns,
        records=(begin + min(first for first, _ in hit), begin + max(last for _, last in hit)) if hit else None,
    )


def _records(segment: MappedSegment, column: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Records of a segment, first and end, with values of a column in some bytes of the file."""
    import numpy as np

    buffers = segment.segment.columns[column]
    records = segment.segment.records
    found = []
    for place, buffer in enumerate(buffers):
        first, last = max(start, buffer.offset) - buffer.offset, min(stop, buffer.offset + buffer.size) - buffer.offset
        if first >= last:
            continue
        if len(buffers) == 1:
            width = buffer.size // records
            found.append((first // width, min(records, -(-last // width))))
            continue
        if place == 0:  # where each record begins, which is also where the one before it ends
            width = buffer.size // (records + 1)
            found.append((max(0, first // width - 1), min(records, -(-last // width))))
            continue
        ends = _ends(segment, column)
        found.append(
            (
                int(np.searchsorted(ends, first, side="right")),
                min(records, int(np.searchsorted(ends, last - 1, side="right")) + 1),
            )
        )
    return [(first, max(first + 1, last)) for first, last in found if first < records]


def _ends(segment: MappedSegment, column: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where in the values of a column, in bytes, each record ends."""
    import numpy as np

    begins, values = segment.segment.columns[column]
    with segment.path.open("rb") as file:
        file.seek(begins.offset)
        places = np.frombuffer(file.read(begins.size), "<i4").astype(np.int64)
    width = values.size // int(places[-1]) if places[-1] > 0 else 1
    ends: np.ndarray[Any, np.dtype[np.int64]] = places[1:] * max(1, width)
    return ends


def _joined(damaged: list[Damaged]) -> list[Damaged]:
    """Neighbouring blocks as one part."""
    found: list[Damaged] = []
    for one in damaged:
        if found and _touch(found[-1], one):
            found[-1] = _union(found[-1], one)
        else:
            found.append(one)
    return found


def _touch(one: Damaged, other: Damaged) -> bool:
    return one.file == other.file and bool(one.bytes and other.bytes and one.bytes[1] == other.bytes[0])


def _union(one: Damaged, other: Damaged) -> Damaged:
    def span(ranges: list[tuple[int, int]]) -> tuple[int, int] | None:
        return (min(first for first, _ in ranges), max(end for _, end in ranges)) if ranges else None

    return msgspec.structs.replace(
        one,
        bytes=span([each.bytes for each in (one, other) if each.bytes]),
        columns=tuple(dict.fromkeys((*one.columns, *other.columns))),
        records=span([each.records for each in (one, other) if each.records]),
    )
