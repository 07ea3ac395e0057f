"""The manifest of a prepared dataset: what it consists of, where that comes from, and what became of every record.

A dataset is a tree in the artifact store:

```
manifest.json
000/00000.arrow          records of generation 0, first segment, as `arrow_layout` describes
000/00001.arrow
000/checksums.crc32c     of its segments, one after the other, 64 KiB a block
000/quarantine-00003.jsonl   bad records that were found while piece 3 was read
001/00000.arrow          generation 1: what was added later
```

Records are numbered by generation, then segment, then place in it, so that no number changes when a generation is
added. The digest of the tree is the identity of the dataset.
"""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import Any

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.dataset.arrow_layout import Buffer
from ganglion.data.records.schema import Schema

KIND = "dataset"
"""Kind of the artifact of a prepared dataset."""

MANIFEST = "manifest.json"
"""Path of the manifest in the tree."""

FORMAT = 2
"""Version of the layout that is written and read."""


def segment_path(generation: int, number: int) -> str:
    """Path in the tree of a segment, counted within its generation."""
    return f"{generation:03d}/{number:05d}.arrow"


def checksums_path(generation: int) -> str:
    """Path in the tree of the checksums of a generation's segments."""
    return f"{generation:03d}/checksums.crc32c"


def quarantine_path(generation: int, piece: int) -> str:
    """Path in the tree of the bad records of one piece."""
    return f"{generation:03d}/quarantine-{piece:05d}.jsonl"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One file of records.

    Attributes:
        path: in the tree.
        generation: that it belongs to.
        records: how many.
        ids: the smallest and the largest id of its records.
        size: bytes of the file.
        digest: of the file.
        columns: where the buffers of each column are: its values, or where each record begins and the values.
    """

    path: str
    generation: int
    records: int
    ids: tuple[int, int]
    size: int
    digest: str
    columns: dict[str, tuple[Buffer, ...]]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records of one unit: `read + made == written + set_aside + left_out`.

    Attributes:
        unit: its number in the dataset: that of ids. Units that a source got later are numbered behind the others.
        name: for people.
        path: of its file; empty where there is none.
        start: where it begins, as the source counts.
        stop: where it ends.
        fingerprint: of its content.
        generation: in which it was read first.
        read: records that the source found, bad ones included.
        written: records of it in the dataset.
        set_aside: records in quarantine.
        made: new records that transforms made of several; 0, or all that were written.
        left_out: records that transforms left out, or made others of.
    """

    unit: int
    name: str
    path: str = ""
    start: int = 0
    stop: int = 0
    fingerprint: str = ""
    generation: int = 0
    read: int = 0
    written: int = 0
    set_aside: int = 0
    made: int = 0
    left_out: int = 0


class BadCount(msgspec.Struct, frozen=True):
    """How many records were set aside for one kind of reason.

    Attributes:
        source: file, or name of the unit.
        stage: what they did not survive.
        reason: with `#` for every number, so that like reasons are counted together.
        count: records.
    """

    source: str
    stage: str
    reason: str
    count: int


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The source of a generation.

    Attributes:
        fingerprint: of the whole source as it was then.
        key: of the preparation: source, code and options that decide the result.
        description: the source as plain data; of arrays only dtype and shape.
    """

    fingerprint: str
    key: str
    description: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a prepared dataset consists of.

    Attributes:
        format: version of this layout.
        schema: the columns.
        segment_bytes: largest size of the records of a segment.
        segments: in the order of the records.
        accounts: of every unit, in order of its number.
        origins: of every generation, in order.
        bad: records in quarantine, counted by source and reason.
        named: names of classes, by the column whose values are their numbers; not there where none are known.
    """

    format: int
    schema: Schema
    segment_bytes: int
    segments: tuple[Segment, ...]
    accounts: tuple[Account, ...]
    origins: tuple[Origin, ...]
    bad: tuple[BadCount, ...] = ()
    named: dict[str, tuple[str, ...]] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="classes")

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Names of classes, by the column whose values are their numbers."""
        return {} if self.named is msgspec.UNSET else self.named

    @property
    def count(self) -> int:
        """Number of records."""
        return sum(segment.records for segment in self.segments)

    @property
    def generations(self) -> tuple[int, ...]:
        """Number of records up to the end of each generation."""
        counts = dict.fromkeys(range(len(self.origins)), 0)
        for generation, segments in groupby(self.segments, key=lambda segment: segment.generation):
            counts[generation] += sum(segment.records for segment in segments)
        return tuple(accumulate(counts.values()))

    @property
    def set_aside(self) -> int:
        """Number of records in quarantine."""
        return sum(account.set_aside for account in self.accounts)


class _Versioned(msgspec.Struct):
    format: int


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Read a manifest.

    Args:
        data: its bytes.
        name: of the dataset, for messages.

    Raises:
        DataError: it cannot be read, or has another format.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).format
        if version != FORMAT:
            raise DataError(
                f"Dataset {name} has format {version}; this version reads format {FORMAT}. Prepare it again."
            )
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise DataError(f"{MANIFEST} of dataset {name} cannot be read: {error}.") from error
