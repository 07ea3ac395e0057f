"""Where the time of a step goes, on one process: a stopwatch, and now and then what the kernel says beside it.

A mark costs one look at the clock and one entry of a list; whatever else is done with them is done for many steps at
once, since code that runs between two steps finds nothing of its own in the processor's caches. What the kernel knows
(processor time, page faults, waiting for a core) costs some microseconds more, so it is asked for at most every
`_APART` seconds, however short the steps are, and less often in a training that lasts.
"""

from __future__ import annotations

import enum
import os
import resource
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

_TOLD_APART = 0.2
"""Seconds of steps that are told together, at least."""

_TOLD_SINGLY = 10
"""Steps that are told as soon as possible, so that there is a verdict on a short training too."""

_APART = 0.1
"""Seconds between two steps that the kernel is asked about."""

_LATER_APART = 0.5
"""The same once it has been asked `_OFTEN` times."""

_OFTEN = 50

_PRESSURE_APART = 1.0
"""Seconds between two looks at files of the system: pressure, limits."""

_CGROUP = Path("/sys/fs/cgroup")


class Stage(enum.IntEnum):
    """What a step consists of, in this order; the columns of laps."""

    LOAD = 0
    COMPUTE = 1
    REDUCE = 2
    UPDATE = 3
    REST = 4


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """What the kernel tells of the thread that trains, over a step; seconds but for the counts.

    Attributes:
        load: duration of the stage.
        load_cpu: processor time in it; the rest is waiting.
        compute: duration of the stage.
        compute_cpu: processor time in it.
        compute_system: the part of that which the kernel took, as for page faults.
        queued: ready to compute, but without a core.
        helpers: processor time of this process's other threads while it computed.
        faults: pages that had to be read from a disk while it computed.
        switches: times that it gave up the core to wait while it computed.
        evictions: times that the core was taken from it meanwhile.
        stalled: that something on the machine stood still for want of memory, since the last such usage.
        filled: of the memory limit of the process, the fraction in use; 0 where there is none.
    """

    load: float = 0.0
    load_cpu: float = 0.0
    compute: float = 0.0
    compute_cpu: float = 0.0
    compute_system: float = 0.0
    queued: float = 0.0
    helpers: float = 0.0
    faults: float = 0.0
    switches: float = 0.0
    evictions: float = 0.0
    stalled: float = 0.0
    filled: float = 0.0


class Laps(msgspec.Struct, frozen=True, array_like=True):
    """Some steps on one process, one after the other.

    Attributes:
        seconds: of each `Stage` in each step: float64 numbers [steps, stages].
        usages: what the kernel told of those steps that it was asked about.
    """

    seconds: bytes
    usages: tuple[Usage, ...] = ()

    @property
    def table(self) -> NDArray[np.float64]:
        """The seconds: [steps, stages]."""
        return np.frombuffer(self.seconds).reshape(-1, len(Stage))


class _Reading(NamedTuple):
    """Totals so far."""

    cpu: float
    system: float
    faults: int
    switches: int
    evictions: int
    process: float
    queued: float


class StepTimer:
    """Times the stages of steps; a step that is not finished leaves no lap.

    Made by the thread that trains, which alone uses it.
    """

    def __init__(self) -> None:
        self._marks: list[float] = []
        self._finished = 0
        self._usages: list[Usage] = []
        self._singly = _TOLD_SINGLY
        self._began = 0.0
        self._asked = 0
        self._next = 0.0
        self._readings: list[_Reading] = []
        self._queue = _open("/proc/thread-self/schedstat")
        self._machine = _Machine()

    @property
    def due(self) -> bool:
        """Whether there are laps that ought to be told."""
        return self._finished > 0 and (self._began - self._marks[0] >= _TOLD_APART or self._singly > 0)

    def laps(self) -> Laps:
        """All that have not been forgotten."""
        marks = np.array(self._marks[: self._finished]).reshape(-1, len(Stage) + 1)
        return Laps(np.diff(marks).tobytes(), tuple(self._usages))

    def forget(self) -> None:
        """The laps up to now have been told, or will never be."""
        self._singly -= self._finished // (len(Stage) + 1)
        del self._marks[: self._finished]
        self._finished = 0
        self._usages.clear()

    def abandon(self) -> None:
        """The step that was begun and not finished, if there is one, leaves no lap."""
        del self._marks[self._finished :]
        self._readings.clear()

    def start(self) -> None:
        """A step begins."""
        if len(self._marks) > self._finished:
            self.abandon()
        self._began = now = perf_counter()
        self._marks.append(now)
        if now >= self._next:
            self._asked += 1
            self._next = now + (_APART if self._asked < _OFTEN else _LATER_APART)
            self._readings.append(self._read())

    def ended(self, stage: Stage) -> float:
        """A stage of the step has ended, one after the other; the seconds since the step began."""
        now = perf_counter()
        self._marks.append(now)
        if self._readings and stage <= Stage.COMPUTE:
            self._readings.append(self._read())
        return now - self._began

    def finish(self) -> None:
        """The step is over, with all that was done beside it; nothing where none was begun."""
        if len(self._marks) == self._finished:
            return
        self._marks.append(perf_counter())
        if self._readings:
            self._usages.append(self._usage(*self._marks[self._finished : self._finished + 3]))
            self._readings.clear()
        self._finished = len(self._marks)

    def _usage(self, began: float, loaded_at: float, computed_at: float) -> Usage:
        before, loaded, computed = self._readings
        cpu = computed.cpu - loaded.cpu
        stalled, filled = self._machine.look(began)
        return Usage(
            load=loaded_at - began,
            load_cpu=loaded.cpu - before.cpu,
            compute=computed_at - loaded_at,
            compute_cpu=cpu,
            compute_system=computed.system - loaded.system,
            queued=computed.queued - loaded.queued,
            helpers=max(0.0, computed.process - loaded.process - cpu),
            faults=computed.faults - loaded.faults,
            switches=computed.switches - loaded.switches,
            evictions=computed.evictions - loaded.evictions,
            stalled=stalled,
            filled=filled,
        )

    def _read(self) -> _Reading:
        used = resource.getrusage(resource.RUSAGE_THREAD if sys.platform == "linux" else resource.RUSAGE_SELF)
        queued = int(os.pread(self._queue, 128, 0).split()[1]) * 1e-9 if self._queue >= 0 else 0.0
        cpu = used.ru_utime + used.ru_stime
        return _Reading(cpu, used.ru_stime, used.ru_majflt, used.ru_nvcsw, used.ru_nivcsw, time.process_time(), queued)


class _Machine:
    """What files of the system say of memory; each is looked at about once in a second.

    `stalled` comes from pressure-stall information, as Documentation/accounting/psi.rst of Linux describes it: that of
    the process's own control group where version 2 of these is in use, else that of the machine.
    """

    def __init__(self) -> None:
        group = _own_group()
        self._pressure = -1
        for path in (*((group / "memory.pressure",) if group else ()), Path("/proc/pressure/memory")):
            self._pressure = _open(str(path)) if self._pressure < 0 else self._pressure
        self._limit, self._used = _limit(group)
        self._asked = perf_counter()
        self._total = self._stalled()

    def look(self, now: float) -> tuple[float, float]:
        """Seconds of standing still since the last look, and how full the memory is; zeros where it is too early."""
        if now - self._asked < _PRESSURE_APART:
            return 0.0, 0.0
        total, before = self._stalled(), self._total
        self._asked, self._total = now, total
        return total - before, self._filled()

    def _stalled(self) -> float:
        if self._pressure < 0:
            return 0.0
        try:
            line = os.pread(self._pressure, 256, 0).partition(b"\n")[0]  # some avg10=0.00 ... total=MICROSECONDS
        except OSError:  # the kernel can do it, but it is switched off
            return 0.0
        return int(line.rpartition(b"=")[2]) * 1e-6

    def _filled(self) -> float:
        if not self._limit:
            return 0.0
        text = os.pread(self._used, 4096, 0)
        if b"VmData:" in text:
            return int(text.partition(b"VmData:")[2].split()[0]) * 1024 / self._limit
        return int(text) / self._limit if text.strip().isdigit() else 0.0


def _limit(group: Path | None) -> tuple[float, int]:
    """The memory limit of this process in bytes, 0 for none, and the file that says how much of it is in use."""
    if group is not None and (group / "memory.max").is_file():
        limit = (group / "memory.max").read_text().strip()
        if limit.isdigit():
            return float(limit), _open(str(group / "memory.current"))
    allowed = resource.getrlimit(resource.RLIMIT_DATA)[0]
    used = _open("/proc/self/status")
    return (0.0, -1) if allowed == resource.RLIM_INFINITY or used < 0 else (float(allowed), used)


def _own_group() -> Path | None:
    """The folder of this process's control group, of version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    return next((_CGROUP / line[3:].lstrip("/") for line in lines if line.startswith("0::")), None)


def _open(path: str) -> int:
    """The descriptor of a file that is read again and again; -1 where there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
