"""Several sources as one, their records taken in turn or in given proportions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch, Ids
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Schema, describe
from ganglion.data.records.unit import RECORDS, Unit
from ganglion.data.source import PlainSource, source_from


class MixedSource(PlainSource, frozen=True, kw_only=True, tag="ganglion.data.sources.mixed:MixedSource"):
    """The records of several sources with the same fields, mixed in the same way every time.

    The sources are divided into as many runs of units as the source with the fewest units has; the first runs of all
    sources are mixed with each other, then the second ones, and so on. Within a run, the record that comes next is
    always the one whose source is furthest behind its share, so that the proportions hold from the first records on.

    Attributes:
        sources: two or more, or their plain data.
        weights: shares of the sources, in any unit; empty for equal ones.
        until: `all`: every record comes once, and sources that have records left go on among themselves when another
            has no more; `first`: a run ends with the source that ends first, so that the proportions hold to the
            end, and records of the others are left out.

    Raises:
        DataError: there are fewer than two sources, or the weights are not one positive number for each.
    """

    sources: tuple[Any, ...]
    weights: tuple[float, ...] = ()
    until: Literal["all", "first"] = "all"

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise DataError(f"{len(self.sources)} sources were given; a mixture has two or more.")
        weights = self.weights or (1.0,) * len(self.sources)
        if len(weights) != len(self.sources) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise DataError(
                f"The weights {', '.join(map(str, weights))} were given; one positive number is needed for each of the "
                f"{len(self.sources)} sources."
            )
        msgspec.structs.force_setattr(self, "weights", tuple(map(float, self.weights)))
        msgspec.structs.force_setattr(self, "sources", tuple(source_from(source) for source in self.sources))

    @property
    def schema(self) -> Schema:
        """The fields of the first source, which all others have, in any order."""
        first: Schema = self.sources[0].schema
        for number, source in enumerate(self.sources[1:], 1):
            if set(source.schema) != set(first):
                raise DataError(
                    f"Source {number} of the mixture has {describe(source.schema)}; source 0 has {describe(first)}. "
                    "Cast or select columns, so that all have the same."
                )
        return first

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """A mixture of snapshots."""
        with ExitStack() as stack:
            sources = tuple(stack.enter_context(source.snapshot()) for source in self.sources)
            yield msgspec.structs.replace(self, sources=sources)

    def units(self) -> Sequence[Unit]:
        """One for each run."""
        found = []
        for number, runs in enumerate(self._runs()):
            members = [unit for run in runs for unit in run]
            counts = [unit.records for unit in members]
            known = self.until == "all" and None not in counts
            found.append(
                Unit(
                    number=number,
                    name=f"mixture of {', '.join(unit.name for unit in members[:4])}{', ...' * (len(members) > 4)}",
                    size=sum(unit.size for unit in members),
                    records=sum(count or 0 for count in counts) if known else None,
                    fingerprint=digest_of(" ".join(unit.fingerprint for unit in members).encode()),
                )
            )
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one run, mixed."""
        runs = self._runs()[unit.number]
        names = [field.name for field in self.schema]
        longest = max(map(len, runs))
        streams = []
        for number, (source, run) in enumerate(zip(self.sources, runs, strict=True)):
            naming = _Naming(unit, number, len(runs), longest)
            weight = self.weights[number] if self.weights else 1.0
            batches = _read(source, run, max(1, size // len(runs)), naming, names, set_aside)
            streams.append(_Stream(number, weight, batches))
        try:
            for batch in _mix(streams, stop_with_first=self.until == "first"):
                yield from batch.pieces(size)
        finally:
            for stream in streams:
                stream.close()

    def fingerprint(self) -> str:
        """Digest of the sources, the weights, and when it ends."""
        members = [source.fingerprint() for source in self.sources]
        return digest_of(msgspec.json.encode(("mixture", members, self.weights, self.until)))

    def _runs(self) -> list[list[Sequence[Unit]]]:
        """For each run, the units of each source."""
        units = [source.units() for source in self.sources]
        runs = max(1, min(map(len, units)))
        return [
            [found[run * len(found) // runs : (run + 1) * len(found) // runs] for found in units] for run in range(runs)
        ]


def interleave(*sources: PlainSource) -> MixedSource:
    """All records of several sources, one of each in turn."""
    return MixedSource(sources=sources)


class _Naming:
    """The ids of a source's records in a mixture: from their numbers in their units, and the places of these."""

    def __init__(self, unit: Unit, source: int, sources: int, longest: int) -> None:
        self._unit, self._source, self._sources, self._longest = unit, source, sources, longest

    def ids(self, ids: Ids, place: int) -> Ids:
        numbers = ((ids % RECORDS) * self._longest + place) * self._sources + self._source
        last = int(numbers.max(initial=0))
        return numbers + (self._unit.id(last) - last)  # which refuses more records than ids can tell apart


def _read(
    source: PlainSource, run: Sequence[Unit], size: int, naming: _Naming, names: list[str], set_aside: SetAside
) -> Iterator[Batch]:
    for place, unit in enumerate(run):

        def rename(record: BadRecord, place: int = place) -> None:
            number = naming.ids(np.array([record.id]), place)[0]
            set_aside(msgspec.structs.replace(record, id=int(number)))

        for batch in source.read_unit(unit, size, rename):
            yield Batch({name: batch.columns[name] for name in names}, naming.ids(batch.ids, place))


class _Stream:
    """The records of one source, and when each is due."""

    def __init__(self, number: int, weight: float, batches: Iterator[Batch]) -> None:
        self.number, self._weight, self._batches = number, weight, batches
        self.waiting: Batch | None = None
        self.ended = False
        self._taken = 0

    def fill(self) -> None:
        """See that a record is waiting, if there is one."""
        while not self.ended and not (self.waiting and len(self.waiting)):
            self.waiting = next(self._batches, None)
            self.ended = self.waiting is None

    def due(self) -> npt.NDArray[np.floating[Any]]:
        """When the records that are waiting are due, and, at last, the one behind them."""
        count = len(self.waiting) if self.waiting is not None else 0
        return (np.arange(self._taken, self._taken + count + 1) + 0.5) / self._weight

    def take(self, count: int) -> Batch:
        """The first records that are waiting."""
        assert self.waiting is not None
        batch, self.waiting = self.waiting.part(0, count), self.waiting.part(count, len(self.waiting))
        self._taken += count
        return batch

    def close(self) -> None:
        """Stop reading."""
        if hasattr(self._batches, "close"):
            self._batches.close()


def _mix(streams: list[_Stream], *, stop_with_first: bool) -> Iterator[Batch]:
    while True:
        for stream in streams:
            stream.fill()
        # What is due up to here is known: behind it, a record that is not read yet may come first. Records that are due
        # at the same time come in the order of their sources.
        ends = [(stream.due()[-2], stream.number) for stream in streams if not stream.ended]
        empty = [(stream.due()[0], stream.number) for stream in streams if stream.ended]
        last = bool(stop_with_first and empty and (not ends or min(empty) <= min(ends)))
        until = min(empty) if last else min(ends, default=(math.inf, 0))
        taken, due = [], []
        for stream in streams:
            times = stream.due()[:-1]
            side: Literal["left", "right"] = "right" if stream.number <= until[1] else "left"
            if count := int(np.searchsorted(times, until[0], side)):
                taken.append(stream.take(count))
                due.append((times[:count], np.full(count, stream.number)))
        if taken:
            order = np.lexsort((np.concatenate([n for _, n in due]), np.concatenate([t for t, _ in due])))
            yield Batch.join(taken).take(order)
        if last or not ends:
            return
