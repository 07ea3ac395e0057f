"""The laps of all processes of a training, added up: since it began, and over the last seconds.

What is kept does not grow with the number of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from ganglion.training.timing import Lap, Stage, Usage

_CHUNK = 5.0
"""Seconds; what is recent are the present chunk and the one before."""


class RankMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did; means over its steps, in seconds.

    Attributes:
        steps: how many of them were measured.
        last: in how many of them all others waited for this process.
        load: waiting for records and making them.
        compute: forward and backward passes.
        reduce: summing together, with waiting for the others.
        update: the optimizer.
        rest: callbacks and checkpoints.
        usage: sums over those steps that the kernel was asked about; `filled` is the largest.
        longest_load: of a single step.
    """

    steps: int
    last: int
    load: float
    compute: float
    reduce: float
    update: float
    rest: float
    usage: Usage = Usage()
    longest_load: float = 0.0


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes did; means over steps, in seconds.

    In each step one process comes last, and all others wait for it: the time of the step is what it did until then,
    and the sum from then on.

    Attributes:
        steps: how many were measured.
        ranks: every process.
        load: on the process that came last, like the next three.
        compute: likewise.
        update: likewise.
        rest: likewise.
        transfer: the sum, once everybody had come.
    """

    steps: int = 0
    ranks: tuple[RankMeasures, ...] = ()
    load: float = 0.0
    compute: float = 0.0
    update: float = 0.0
    rest: float = 0.0
    transfer: float = 0.0

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.load + self.compute + self.update + self.rest + self.transfer


_STAGES = len(Stage)
_USAGES = len(Usage.__struct_fields__)
_FILLED = Usage.__struct_fields__.index("filled")


class _Sums:
    """Sums over steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.critical = [0.0] * _STAGES
        self.seconds: list[list[float]] = []
        self.usages: list[list[float]] = []
        self.counts: list[int] = []
        self.last: list[int] = []
        self.longest: list[float] = []

    def add(self, laps: Sequence[Lap]) -> None:
        while len(self.counts) < len(laps):
            self.seconds.append([0.0] * _STAGES)
            self.usages.append([0.0] * _USAGES)
            self.counts.append(0)
            self.last.append(0)
            self.longest.append(0.0)
        self.steps += 1
        latest = min(range(len(laps)), key=lambda rank: laps[rank].seconds[Stage.REDUCE])
        self.last[latest] += 1
        for stage, seconds in enumerate(laps[latest].seconds):
            self.critical[stage] += seconds
        for rank, lap in enumerate(laps):
            self.counts[rank] += 1
            sums = self.seconds[rank]
            for stage, seconds in enumerate(lap.seconds):
                sums[stage] += seconds
            self.longest[rank] = max(self.longest[rank], lap.seconds[Stage.LOAD])
            if lap.usage is not None:
                self._use(self.usages[rank], lap.usage)

    def _use(self, sums: list[float], usage: Usage) -> None:
        for place, value in enumerate(msgspec.structs.astuple(usage)):
            sums[place] = max(sums[place], value) if place == _FILLED else sums[place] + value

    def merge(self, other: _Sums) -> _Sums:
        """Both together, as a new object."""
        both = _Sums()
        both.steps = self.steps + other.steps
        both.critical = [a + b for a, b in zip(self.critical, other.critical, strict=True)]
        for rank in range(max(len(self.counts), len(other.counts))):
            of = [sums for sums in (self, other) if rank < len(sums.counts)]
            both.seconds.append([sum(values) for values in zip(*(sums.seconds[rank] for sums in of), strict=True)])
            both.usages.append([sum(values) for values in zip(*(sums.usages[rank] for sums in of), strict=True)])
            both.usages[rank][_FILLED] = max(sums.usages[rank][_FILLED] for sums in of)
            both.counts.append(sum(sums.counts[rank] for sums in of))
            both.last.append(sum(sums.last[rank] for sums in of))
            both.longest.append(max(sums.longest[rank] for sums in of))
        return both

    def measures(self) -> Measures:
        if not self.steps:
            return Measures()
        ranks = []
        for rank, count in enumerate(self.counts):
            load, compute, reduce, update, rest = (sum_ / count for sum_ in self.seconds[rank])
            ranks.append(
                RankMeasures(
                    steps=count,
                    last=self.last[rank],
                    load=load,
                    compute=compute,
                    reduce=reduce,
                    update=update,
                    rest=rest,
                    usage=Usage(*self.usages[rank]),
                    longest_load=self.longest[rank],
                )
            )
        load, compute, transfer, update, rest = (sum_ / self.steps for sum_ in self.critical)
        return Measures(
            steps=self.steps,
            ranks=tuple(ranks),
            load=load,
            compute=compute,
            update=update,
            rest=rest,
            transfer=transfer,
        )


class Tally:
    """Adds laps up.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = _Sums()
        self._before, self._now = _Sums(), _Sums()
        self._since = clock()

    def add(self, laps: Sequence[Lap | None]) -> None:
        """Take in one step of every process, by rank; nothing unless all of them have timed it."""
        given = [lap for lap in laps if lap is not None]
        if len(given) < len(laps):
            return
        now = self._clock()
        if now - self._since >= _CHUNK or len(self._now.counts) not in (0, len(given)):
            stays = len(self._now.counts) == len(given)
            self._total = self._total.merge(self._now)
            self._before, self._now, self._since = self._now if stays else _Sums(), _Sums(), now
        self._now.add(given)

    def total(self) -> Measures:
        """Since the training began, as far as this process has seen it."""
        return self._total.merge(self._now).measures()

    def recent(self) -> Measures:
        """Of the last five to ten seconds, with the processes that take part now."""
        return self._before.merge(self._now).measures()
