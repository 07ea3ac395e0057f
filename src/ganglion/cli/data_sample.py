"""A few records of a source, drawn while all of it goes by, and how values of records are written for people."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ganglion.cli.output import number_text
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource

WIDTH = 40
"""Characters of a value in a table, at most."""

_FEW = 8
_LISTED = 64
_INTERVAL = 0.1


class Sampler:
    """Draws records out of batches; which ones depends on their ids alone.

    A record gets a random number that is a function of its id; those with the smallest are kept.

    Args:
        count: how many records to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: Batch | None = None

    def add(self, batch: Batch) -> None:
        """Take part of a batch, maybe."""
        if self._kept is not None and len(self._kept) >= self._count:
            fresh = np.flatnonzero(_lots(batch) < _lots(self._kept)[-1])
        else:
            fresh = np.arange(len(batch))
        if len(fresh):
            fresh = fresh[np.argsort(_lots(batch)[fresh], kind="stable")[: self._count]]
            drawn = batch.take(fresh)
            self._kept = self._first(drawn if self._kept is None else Batch.join([self._kept, drawn]), self._count)

    def records(self, count: int) -> Batch | None:
        """So many of the records that were drawn, in the order of the source; nothing where no record came."""
        if self._kept is None:
            return None
        drawn = self._first(self._kept, count)
        return drawn.take(np.argsort(drawn.ids))

    @staticmethod
    def _first(batch: Batch, count: int) -> Batch:
        return batch.take(np.argsort(_lots(batch), kind="stable")[:count])


def _lots(batch: Batch) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return Draw().bits(batch.ids, "sample")[:, 0]


class WatchedSource(PlainSource, frozen=True, kw_only=True):
    """Another source, read while somebody looks on.

    Attributes:
        source: the other source.
        watch: is given every batch that is read.
    """

    source: PlainSource
    watch: Callable[[Batch], None]

    @property
    def schema(self) -> Schema:
        """The fields of the other source."""
        return self.source.schema

    def units(self) -> Sequence[Unit]:
        """The units of the other source."""
        return self.source.units()

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, shown on the way."""
        for batch in self.source.read_unit(unit, size, set_aside):
            self.watch(batch)
            yield batch

    def fingerprint(self) -> str:
        """That of the other source."""
        return self.source.fingerprint()


class Look:
    """What was seen while a source was read: how many records and bytes, a sample, and the bad records.

    Attributes:
        records: that came.
        size: bytes of their values.
        bad: records that were set aside, the first of them.
        set_aside: how many were.

    Args:
        sample: records to draw.
        tell: told of the state now and then.
    """

    KEPT = 1000
    """Bad records that are kept, at most."""

    def __init__(self, sample: int, tell: Callable[[Look], None]) -> None:
        self.records = self.size = self.set_aside = 0
        self.bad: list[BadRecord] = []
        self.sampler = Sampler(sample)
        self._tell = tell
        self._told = time.monotonic()

    def take(self, batch: Batch) -> None:
        """Look at records."""
        self.records += len(batch)
        self.size += batch.nbytes
        self.sampler.add(batch)
        if time.monotonic() - self._told > _INTERVAL:
            self._told = time.monotonic()
            self._tell(self)

    def refuse(self, record: BadRecord) -> None:
        """Take note of a bad record."""
        self.set_aside += 1
        if len(self.bad) < self.KEPT:
            self.bad.append(record)


def value_text(field: Field, value: Any) -> str:
    """One value of a record for people, in at most `WIDTH` characters."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes: {value[:8].hex(' ')}{' ...' * (len(value) > 8)}"
    if isinstance(value, str):
        return _cut(value if value.isprintable() and value.strip() == value else repr(value))
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, np.ndarray):
        return _cut(str(value))
    if value.size <= _FEW:
        return _cut(" ".join(f"{number:.4g}" for number in value.reshape(-1).tolist()))
    if field.sequence:
        return _cut(" ".join(f"{number:.4g}" for number in value[:_FEW].tolist())) + f" ... ({value.size:,} values)"
    shape = "x".join(map(str, value.shape))
    if value.dtype.kind == "c":
        return shape
    low, high, mean = (number_text(float(number)) for number in (value.min(), value.max(), value.mean()))
    return f"{shape}: {low} to {high}, mean {mean}"


def plain_value(value: Any) -> Any:
    """One value of a record for programs; long arrays and bytes only as what they are like."""
    if isinstance(value, bytes):
        return {"bytes": len(value), "digest": f"sha256:{hashlib.sha256(value).hexdigest()}"}
    if isinstance(value, np.ndarray):
        if value.size <= _LISTED and value.dtype.kind != "c":
            return value.tolist()
        return {"dtype": value.dtype.name, "shape": list(value.shape)}
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
