"""Faults on purpose: what happens to whom, at which point of which step.

A script is a list of `Fault`s: written down, read from a line of text, or drawn from a seed. It is plain data that goes
by logical steps and ranks, never by time, so a run that failed under it fails again. `with_faults` makes any spec run
under a script; code that is to be disturbed only calls `core.faults.point`.

```
spec = with_faults(gang(plan, id="job", workers=2), parse("kill: rank=1, point=in_reduce, step=3"), folder)
```
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ganglion.core import config, faults
from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.execution.entry import Entry
from ganglion.execution.member import Member, current_member
from ganglion.execution.spec import Gang, Task

POINTS = {
    "training.ready": "before a worker says that it can take part",
    "training.load": "before the records of a step are read",
    "training.batch": "after that, before they are computed with",
    "training.before_reduce": "gradients are computed, nobody has seen them",
    "training.in_reduce": "everybody's are complete, the sums are not",
    "training.after_reduce": "the sums are agreed upon, nothing is changed yet",
    "training.optimizer": "the weights are changed, nothing else is",
    "training.commit": "after a step was committed",
    "training.evaluated": "after an epoch was measured",
    "training.finish": "before the result is made",
    "training.checkpoint_write": "before the files of a checkpoint are written",
    "training.checkpoint_publish": "the files are there, the checkpoint is not yet",
}
"""Where faults can happen; a name without a dot is one of `training`."""

STEP = tuple(f"training.{name}" for name in ("before_reduce", "in_reduce", "after_reduce", "optimizer", "commit"))
"""The points that every worker passes in every step, one after the other."""

KINDS = (
    "kill",
    "stop",
    "preempt",
    "slow",
    "disconnect",
    "corrupt",
    "disk_full",
    "join",
    "hold",
    "release",
    "mark",
)
"""What can happen."""

_ONLY = {
    "disconnect": ("training.in_reduce",),
    "corrupt": ("training.batch",),
    "disk_full": ("training.checkpoint_write", "training.checkpoint_publish"),
    "join": ("training.ready",),
}
"""The points of kinds that need something of the place where they happen."""

_POLL = 0.002

Spec = TypeVar("Spec", Task, Gang)


class Fault(Config, frozen=True, kw_only=True):
    """One thing that happens.

    Attributes:
        kind: `kill` (SIGKILL), `stop` (SIGSTOP), `preempt` (SIGTERM); `slow` waits for `seconds`; `disconnect` cuts all
            links to the other workers; `corrupt` makes the records of a slice useless; `disk_full` lets writing fail;
            `join` keeps a worker back until another one has committed `step`. For scripts of several members: `hold`
            waits at a point until somebody passes a `release` of the same `gate`; `mark` only writes to the log.
        point: where, of `POINTS`; by default where the kind belongs, or before the reduction.
        step: in which step, from 0; by default the first that comes. Points outside of steps have the number of steps
            done so far.
        rank: which worker, by its number in the gang, which replacements inherit; by default each.
        attempt: 1 for the first process of the worker, 2 for its first replacement; 0 for any.
        times: how often in one process; 0 for every time.
        seconds: for `slow`.
        worker: for `corrupt`: the logical worker whose slice it is, whoever computes it.
        gate: for `hold` and `release`.
    """

    kind: str
    point: str = ""
    step: int | None = None
    rank: int | None = None
    attempt: int = 1
    times: int = 1
    seconds: float = 0.1
    worker: int = 0
    gate: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"There is no fault {self.kind!r}. {suggest(self.kind, KINDS)}")
        allowed = _ONLY.get(self.kind, tuple(POINTS))
        if self.place not in allowed:
            raise ConfigurationError(
                f"The fault {self.kind!r} cannot happen at {self.place!r}. {suggest(self.place, allowed)}"
            )
        if bool(self.gate) != (self.kind in ("hold", "release")):
            raise ConfigurationError(f"The fault {self.kind!r} has the gate {self.gate!r}; hold and release need one.")
        if self.kind == "join" and (self.rank is None or self.step is None):
            raise ConfigurationError("The fault 'join' needs the rank that joins and the step after which it does.")

    @property
    def place(self) -> str:
        """The full name of the point."""
        point = self.point or _ONLY.get(self.kind, ("training.before_reduce",))[0]
        return point if "." in point else f"training.{point}"


def parse(text: str, *, workers: int = 2, steps: int = 10) -> tuple[Fault, ...]:
    """Read a script.

    Args:
        text: `KIND: KEY=VALUE, ...` with `;` between faults, as `kill: rank=1, step=3; slow: seconds=0.2, times=0`; or
            `seed=N`, also `seed=N, count=M`, for one that is drawn; or the path of a JSON file with a list of faults.
        workers: in the gang, for one that is drawn.
        steps: of the training, likewise.

    Raises:
        ConfigurationError: it says something that there is not.
    """
    if text.endswith(".json"):
        try:
            return tuple(
                config.convert(Fault, entry, where=text) for entry in msgspec.json.decode(Path(text).read_bytes())
            )
        except (OSError, msgspec.DecodeError, AttributeError) as error:
            raise ConfigurationError(f"{text} does not read as a list of faults: {error}.") from error
    if text.lstrip().startswith("seed"):
        given = config.merge({}, text.split(","))
        unknown = given.keys() - {"seed", "count"}
        if unknown or not all(isinstance(value, int) for value in given.values()):
            raise ConfigurationError(f"The faults {text!r} are not of the form seed=N or seed=N, count=M.")
        return draw(given["seed"], workers=workers, steps=steps, count=given.get("count"))
    script = []
    for part in filter(None, map(str.strip, text.split(";"))):
        kind, _, details = part.partition(":")
        values = config.merge({"kind": kind.strip()}, filter(None, map(str.strip, details.split(","))))
        script.append(config.convert(Fault, values, where=f"fault {part!r}"))
    if not script:
        raise ConfigurationError(f"The faults {text!r} are none; one is `kill: rank=1, step=3`.")
    return tuple(script)


def draw(seed: int, *, workers: int, steps: int, count: int | None = None) -> tuple[Fault, ...]:
    """A script that follows from a seed: the same for the same arguments.

    Args:
        seed: any number.
        workers: in the gang.
        steps: of the training.
        count: how many faults; by default one to four.
    """
    chance = random.Random(seed)
    # Whether a worker has stopped is found out by the others, if there are any.
    kinds = ("kill", "kill", "preempt", *(("stop", "disconnect") if workers > 1 else ()), "slow")
    script = []
    for _ in range(chance.randint(1, 4) if count is None else count):
        kind = chance.choice(kinds)
        script.append(
            Fault(
                kind=kind,
                point="training.in_reduce" if kind == "disconnect" else chance.choice(STEP),
                step=chance.randrange(steps),
                rank=chance.randrange(workers),
                attempt=chance.choice((1, 1, 2)),
            )
        )
    return tuple(script)


def with_faults(spec: Spec, script: Sequence[Fault], folder: Path) -> Spec:
    """The same task or gang, whose processes suffer a script.

    Args:
        spec: what is to be disturbed.
        script: what happens.
        folder: that all processes reach; `happened` reads there what has.
    """
    arguments = {
        "entry": msgspec.to_builtins(spec.entry),
        "arguments": spec.arguments,
        "script": [msgspec.to_builtins(fault) for fault in script],
        "folder": str(folder.absolute()),
    }
    return msgspec.structs.replace(spec, entry=Entry(path=f"{__name__}:run_with_faults"), arguments=arguments)


def run_with_faults(
    *, entry: dict[str, Any], arguments: dict[str, Any], script: list[dict[str, Any]], folder: str
) -> Any:
    """Entry: another entry, under a script."""
    planned = [config.convert(Fault, fault, where="faults") for fault in script]
    faults.install(Injector(planned, current_member(), Path(folder)))
    return msgspec.convert(entry, Entry).load()(**arguments)


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that has happened.

    Attributes:
        fault: as it was scripted.
        member: to whom.
        attempt: which process of it.
        step: in which step.
        at: system-wide monotonic seconds.
    """

    fault: Fault
    member: str
    attempt: int
    step: int
    at: float


def happened(folder: Path) -> list[Happened]:
    """What has happened so far, in order."""
    try:
        lines = (folder / _LOG).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line, type=Happened) for line in lines]


class Injector:
    """Lets a script happen to this process; a handler for `core.faults.install`.

    Args:
        script: what happens; faults of other members are left to them.
        member: this process.
        folder: that all processes of the job reach.
    """

    def __init__(self, script: Sequence[Fault], member: Member, folder: Path) -> None:
        self._member = member
        self._folder = folder
        self._step = 0
        self._waiting = [
            (fault, [fault.times or -1]) for number, one in enumerate(script) for fault in self._mine(one, number)
        ]
        self._acts: dict[str, Callable[[Fault, Mapping[str, Any]], None]] = {
            "kill": lambda _fault, _context: os.kill(os.getpid(), signal.SIGKILL),
            "stop": lambda _fault, _context: os.kill(os.getpid(), signal.SIGSTOP),
            "preempt": lambda _fault, _context: os.kill(os.getpid(), signal.SIGTERM),
            "slow": lambda fault, _context: time.sleep(fault.seconds),
            "disconnect": lambda _fault, context: context["disconnect"](),
            "corrupt": _corrupt,
            "disk_full": _fill_the_disk,
            "hold": lambda fault, _context: self._hold(fault.gate),
            "release": lambda fault, _context: (folder / f"{fault.gate}.gate").touch(),
            "mark": lambda _fault, _context: None,
        }

    def __call__(self, point: str, context: dict[str, Any]) -> None:
        """The process passes a point."""
        self._step = context.get("step", self._step)
        for fault, left in self._waiting:
            if fault.place == point and fault.step in (None, self._step) and left[0]:
                left[0] -= 1
                self._log(fault)
                self._acts[fault.kind](fault, context)

    def _mine(self, fault: Fault, number: int) -> list[Fault]:
        """What a fault is for this process."""
        if fault.kind == "join":
            gate = f"join-{number}"
            if fault.rank != self._member.index:
                commit = "training.commit"
                return [Fault(kind="release", point=commit, step=fault.step, attempt=0, gate=gate)]
            fault = Fault(kind="hold", point=fault.point or "training.ready", rank=fault.rank, gate=gate)
        elif fault.kind == "corrupt":  # damage of data is the same for whoever reads them, as often as that is
            fault = msgspec.structs.replace(fault, rank=None, attempt=0, times=0)
        matches = fault.rank in (None, self._member.index) and fault.attempt in (0, self._member.attempt)
        return [fault] if matches else []

    def _hold(self, gate: str) -> None:
        while not (self._folder / f"{gate}.gate").exists():
            time.sleep(_POLL)

    def _log(self, fault: Fault) -> None:
        entry = Happened(
            fault=fault,
            member=self._member.name,
            attempt=self._member.attempt,
            step=self._step,
            at=time.monotonic(),
        )
        descriptor = os.open(self._folder / _LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, msgspec.json.encode(entry) + b"\n")  # one write: lines of processes do not mix
        os.close(descriptor)


_LOG = "faults.jsonl"


def _corrupt(fault: Fault, context: Mapping[str, Any]) -> None:
    """Numbers that are none, and integers that no label is."""
    import numpy as np

    slices = context["slices"]
    if fault.worker in slices:
        slices[fault.worker] = {
            name: np.full_like(column, np.nan if column.dtype.kind == "f" else np.iinfo(column.dtype).max)
            for name, column in slices[fault.worker].items()
        }


def _fill_the_disk(_fault: Fault, _context: Mapping[str, Any]) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
