"""The laps of all processes of a training, exchanged and added up: since it began, and over the last seconds.

Laps travel in the notes of steps, but not in all of them: short steps would pay for it. Whoever has collected enough
says so in one note, and everyone puts its laps into the next; so they belong to the same steps. They are added up when
somebody asks, or after some seconds. What is kept does not grow with the number of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ganglion.training.timing import Laps, Stage, StepTimer, Usage

_CHUNK = 5.0
"""Seconds; what is recent are the present chunk and the one before."""


class RankMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did; means over its steps, in seconds.

    Attributes:
        steps: how many of them were measured.
        last: in how many of them all others waited for this process.
        last_work: seconds of computing and updating in those steps, in the mean over all steps.
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
    last_work: float
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
    """Sums over steps.

    Args:
        ranks: how many processes.
    """

    def __init__(self, ranks: int = 0) -> None:
        self.steps = 0
        self.critical = np.zeros(_STAGES)
        self.seconds = np.zeros((ranks, _STAGES))
        self.usages = np.zeros((ranks, _USAGES))
        self.counts = np.zeros(ranks, dtype=np.int64)
        self.last = np.zeros(ranks, dtype=np.int64)
        self.last_work = np.zeros(ranks)
        self.longest = np.zeros(ranks)

    @property
    def ranks(self) -> int:
        """How many processes."""
        return len(self.counts)

    def add(self, laps: Sequence[Laps]) -> None:
        """Add the last steps of each process, as many as all of them have."""
        steps = min(len(each.table) for each in laps)
        if not steps:
            return
        table = np.stack([each.table[-steps:] for each in laps])
        latest = table[:, :, Stage.REDUCE].argmin(axis=0)
        self.steps += steps
        self.counts += steps
        self.last += np.bincount(latest, minlength=self.ranks)
        critical = table[latest, np.arange(steps)]
        work = critical[:, Stage.COMPUTE] + critical[:, Stage.UPDATE]
        self.last_work += np.bincount(latest, weights=work, minlength=self.ranks)
        self.critical += critical.sum(axis=0)
        self.seconds += table.sum(axis=1)
        np.maximum(self.longest, table[:, :, Stage.LOAD].max(axis=1), out=self.longest)
        for rank, each in enumerate(laps):
            for usage in each.usages:
                _use(self.usages[rank], np.array(msgspec.structs.astuple(usage)))

    def merge(self, other: _Sums) -> _Sums:
        """Both together, as a new object."""
        both = _Sums(max(self.ranks, other.ranks))
        for sums in (self, other):
            both.steps += sums.steps
            both.critical += sums.critical
            both.counts[: sums.ranks] += sums.counts
            both.last[: sums.ranks] += sums.last
            both.last_work[: sums.ranks] += sums.last_work
            both.seconds[: sums.ranks] += sums.seconds
            both.longest[: sums.ranks] = np.maximum(both.longest[: sums.ranks], sums.longest)
            _use(both.usages[: sums.ranks], sums.usages)
        return both

    def measures(self) -> Measures:
        if not self.steps:
            return Measures()
        ranks = []
        for rank, count in enumerate(self.counts):
            load, compute, reduce, update, rest = (self.seconds[rank] / count).tolist()
            ranks.append(
                RankMeasures(
                    steps=int(count),
                    last=int(self.last[rank]),
                    last_work=float(self.last_work[rank]) / self.steps,
                    load=load,
                    compute=compute,
                    reduce=reduce,
                    update=update,
                    rest=rest,
                    usage=Usage(*self.usages[rank].tolist()),
                    longest_load=float(self.longest[rank]),
                )
            )
        load, compute, transfer, update, rest = (self.critical / self.steps).tolist()
        return Measures(
            steps=self.steps,
            ranks=tuple(ranks),
            load=load,
            compute=compute,
            update=update,
            rest=rest,
            transfer=transfer,
        )


def _use(sums: NDArray[np.float64], usages: NDArray[np.float64]) -> None:
    """Add usages to sums of them: [..., fields]."""
    filled = np.maximum(sums[..., _FILLED], usages[..., _FILLED])
    sums += usages
    sums[..., _FILLED] = filled


class Tally:
    """Adds laps up.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ranks = 0
        self._total = _Sums()
        self._before, self._now = _Sums(), _Sums()
        self._waiting: list[Sequence[Laps]] = []
        self._since = clock()

    def add(self, laps: Sequence[Laps]) -> None:
        """Take in steps of every process, by rank.

        All end with the same step; who has joined has fewer, and earlier ones of others are left out.
        """
        now = self._clock()
        if now - self._since >= _CHUNK or len(laps) != self._ranks:
            present = self._present()
            self._total = self._total.merge(present)
            self._before = present if len(laps) == self._ranks else _Sums()
            self._now = _Sums(len(laps))
            self._ranks, self._since = len(laps), now
        self._waiting.append(laps)

    def total(self) -> Measures:
        """Since the training began, as far as this process has seen it."""
        return self._total.merge(self._present()).measures()

    def recent(self) -> Measures:
        """Of the last five to ten seconds, with the processes that take part now."""
        return self._before.merge(self._present()).measures()

    def _present(self) -> _Sums:
        """The present chunk."""
        for laps in self._waiting:
            self._now.add(laps)
        self._waiting.clear()
        return self._now


Told: TypeAlias = Laps | bool
"""What a process says in the note of a step: its laps up to the step before, or whether all are to tell theirs next."""


class Survey:
    """What all processes measure, as one of them knows it.

    Attributes:
        timer: of this process.
        tally: of all of them.
    """

    def __init__(self) -> None:
        self.timer = StepTimer()
        self.tally = Tally()
        self._asked = False

    def say(self, *, left: int) -> Told:
        """This process's part of the note of a step; said again where the step has to be repeated.

        Args:
            left: steps of the training after this one; before the last one everything is asked for.
        """
        return self.timer.laps() if self._asked else self.timer.due or left == 1

    def hear(self, told: Sequence[Told]) -> None:
        """Everybody's part of the note of a step, by rank; once for a step."""
        if self._asked:
            self.timer.forget()
            laps = [each for each in told if isinstance(each, Laps)]
            if len(laps) == len(told):  # who has just joined has not heard that they were asked for
                self.tally.add(laps)
        self._asked = True in told

    def forget(self) -> None:
        """Leave out what has been timed and not been told: this process has not taken the same steps as the others.

        Nor does a step that it has begun go on: what comes next may be no step at all.
        """
        self.timer.abandon()
        self.timer.forget()
        self._asked = False
