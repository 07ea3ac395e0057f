"""What a training is bound by: one verdict from what its processes measured, with evidence and what to do; pure.

The time of a step is what the process that came last did until then, and the sum from then on. Each part of it is
counted for one thing only, and that with the largest share is the verdict:

- *input*: waiting for records and making them; also what a process loses because threads of its own that make records
  take the core, or the interpreter's lock, from it.
- *memory*: standing still or working for the kernel while pages are read back or freed. Such time is believed only as
  far as page faults and the kernel's pressure figures account for it.
- *communication*: the sum itself, and waiting for one process that computes longer than the others.
- *compute*: forward and backward passes and the optimizer.
- *overhead*: callbacks and checkpoints.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from ganglion.training.measures import Measures, RankMeasures

Bound = Literal["input", "compute", "communication", "memory", "overhead", "balanced", "unknown"]

CLEAR = 0.4
"""Share of the time that a verdict needs; below, nothing stands out."""

ENOUGH = 5
"""Steps that have to be measured."""

_FAULT = 0.02
"""Seconds that one page from a disk may explain."""

_NEAR = 0.9
"""Fraction of a memory limit that is near it."""

_WORTH_MENTION = 0.2


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What remedies depend on.

    Attributes:
        logical: number of logical workers.
        cores: that this host has for the training.
        channels_last: as in the plan, like the next two.
        precision: of the passes.
        micro_batches: parts of a slice.
    """

    logical: int = 1
    cores: int = 1
    channels_last: bool = True
    precision: str = "float32"
    micro_batches: int = 1


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a training is bound by.

    Attributes:
        bound: `input`, `compute`, `communication`, `memory` or `overhead` (callbacks and checkpoints); `balanced` where
            none of them takes 40 % of the time, `unknown` where too few steps were measured.
        cause: of what kind, in a few words; empty where there is nothing to add.
        rank: of the one process that it is about; `None` where it is about all.
        shares: of the time of a step, by the names above; they add up to 1.
        step_seconds: time of a step, in the mean.
        evidence: sentences with figures.
        remedies: sentences that name options.
    """

    bound: Bound = "unknown"
    cause: str = ""
    rank: int | None = None
    shares: dict[str, float] = {}
    step_seconds: float = 0.0
    evidence: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """In two words: `input-bound 62%`."""
        if self.bound in ("balanced", "unknown"):
            return "" if self.bound == "unknown" else "balanced"
        return f"{self.bound}-bound {100 * self.shares[self.bound]:.0f}%"


class _Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a step, in seconds, each part counted once."""

    loading: float
    competing: float
    memory: float
    transfer: float
    waiting: float
    compute: float
    overhead: float
    late: int | None

    def shares(self) -> dict[str, float]:
        seconds = {
            "input": self.loading + self.competing,
            "compute": self.compute,
            "communication": self.transfer + self.waiting,
            "memory": self.memory,
            "overhead": self.overhead,
        }
        total = sum(seconds.values())
        return {name: value / total for name, value in seconds.items()} if total > 0 else seconds


def diagnose(measures: Measures, circumstances: Circumstances | None = None) -> Verdict:
    """What a training is bound by.

    Args:
        measures: of all its processes.
        circumstances: what remedies depend on.
    """
    if measures.steps < ENOUGH or not measures.seconds > 0:
        return Verdict()
    parts = _parts(measures)
    shares = parts.shares()
    given = circumstances or Circumstances()
    top = max(shares, key=lambda name: shares[name])
    rounded = {name: round(share, 4) for name, share in shares.items()}
    near = _near_the_limit(measures.ranks)
    if shares[top] < CLEAR:
        evidence = (_breakdown(shares, measures), *near)
        return Verdict(bound="balanced", shares=rounded, step_seconds=measures.seconds, evidence=evidence)
    cause, rank, evidence, remedies = _ABOUT[top](measures, parts, given)
    return Verdict(
        bound=top,  # type: ignore[arg-type]  # a key of the shares
        cause=cause,
        rank=rank,
        shares=rounded,
        step_seconds=measures.seconds,
        evidence=(_breakdown(shares, measures), *evidence, *(near if top != "memory" else ())),
        remedies=remedies,
    )


def _parts(measures: Measures) -> _Parts:
    alone = len(measures.ranks) == 1
    work = measures.compute + measures.update
    memory = competing = 0.0
    for rank in measures.ranks:
        lost = _memory_fraction(rank)
        memory += rank.last_work * lost
        competing += rank.last_work * min(_competing_fraction(rank), 1 - lost)
    late, excess = (None, 0.0) if alone else _straggler(measures.ranks)
    excess = min(excess, measures.compute)
    useful = 1 - (memory + competing) / work if work > 0 else 1.0
    return _Parts(
        loading=measures.load,
        competing=competing,
        memory=memory,
        transfer=0.0 if alone else measures.transfer,
        waiting=useful * excess,
        compute=useful * (work - excess) + (measures.transfer if alone else 0.0),
        overhead=measures.rest,
        late=late,
    )


def _straggler(ranks: Sequence[RankMeasures]) -> tuple[int, float]:
    """The process that computes longest, and how much longer than the others in the middle."""
    slowest = max(range(len(ranks)), key=lambda rank: ranks[rank].compute)
    others = [rank.compute for number, rank in enumerate(ranks) if number != slowest]
    return slowest, ranks[slowest].compute - statistics.median_low(others)


def _memory_fraction(rank: RankMeasures) -> float:
    """Of the time that a process computes, what it loses because memory is short."""
    usage = rank.usage
    if usage.compute <= 0:
        return 0.0
    # Whoever waited for a page has to wait for a core again; that belongs to the page, not to the machine's load.
    blamed = min(1.0, usage.faults / max(1.0, usage.switches + usage.evictions))
    off = max(0.0, usage.compute - usage.compute_cpu)
    suspect = max(0.0, off - (1 - blamed) * usage.queued) + usage.compute_system
    return min(1.0, min(suspect, _FAULT * usage.faults + usage.stalled) / usage.compute)


def _competing_fraction(rank: RankMeasures) -> float:
    """Of the time that a process computes, what it loses to other threads of its own."""
    usage = rank.usage
    if usage.compute <= 0:
        return 0.0
    off = max(0.0, usage.compute - usage.compute_cpu)
    return min(1.0, min(off, usage.helpers) / usage.compute)


# what is said


def _breakdown(shares: dict[str, float], measures: Measures) -> str:
    largest = sorted(shares, key=lambda name: -shares[name])
    named = ", ".join(f"{name} {shares[name]:.0%}" for name in largest if shares[name] >= 0.01)
    return f"A step takes {_time(measures.seconds)} in the mean of {measures.steps}: {named}."


_Told = tuple[str, int | None, tuple[str, ...], tuple[str, ...]]


def _of_input(measures: Measures, parts: _Parts, given: Circumstances) -> _Told:
    ranks = measures.ranks
    loads = [rank.load for rank in ranks]
    alone = _alone(loads) if parts.competing <= parts.loading else None
    load = sum(rank.usage.load for rank in ranks)
    busy = min(1.0, sum(rank.usage.load_cpu for rank in ranks) / load) if load > 0 else 0.0
    evidence = [
        f"The records of a step are ready {_time(measures.load)} after they are asked for, up to "
        f"{_time(max(rank.longest_load for rank in ranks))}; the training computes for {_time(measures.compute)}."
    ]
    if alone is not None:
        rest = statistics.median(load for number, load in enumerate(loads) if number != alone)
        evidence.append(f"Rank {alone} waits {_time(loads[alone])}, the others {_time(rest)}.")
    if parts.competing > parts.loading:
        cause = "threads that make records take the core from the training"
        evidence.append(
            f"While it computes, other threads of the same process use {_time(parts.competing)} of processor time in "
            "which it has to wait."
        )
    elif busy > 0.5:
        cause = "records are made by the training's own thread"
        evidence.append(f"Of the time for records, {busy:.0%} is processor time of the thread that trains.")
    else:
        cause = "waiting for records"
        evidence.append(f"Of the time for records, {1 - busy:.0%} is waiting without work.")
    remedies = (
        "`ganglion train --fix-input`: more loader workers, processes for transforms in Python, all files in memory.",
        "By hand: the loader's options parallel=N (I/O) or workers='processes' (transforms in Python), and "
        "memory=BYTES, enough for all of the prepared dataset.",
        "Do deterministic transforms once, when the dataset is prepared, instead of in every epoch.",
    )
    return cause, alone, tuple(evidence), remedies


def _of_compute(measures: Measures, parts: _Parts, given: Circumstances) -> _Told:
    compute = sum(rank.usage.compute for rank in measures.ranks)
    queued = sum(rank.usage.queued for rank in measures.ranks) / compute if compute > 0 else 0.0
    used = min(1.0, sum(rank.usage.compute_cpu for rank in measures.ranks) / compute) if compute > 0 else 1.0
    evidence = [
        f"Forward and backward passes take {_time(measures.compute)}, the optimizer {_time(measures.update)}; "
        f"{used:.0%} of the former is processor time."
    ]
    workers = len(measures.ranks)
    remedies = []
    cause = ""
    if queued > _WORTH_MENTION:
        cause = "more busy processes than cores"
        evidence.append(f"Workers that could compute wait for a core {queued:.0%} of that time.")
        remedies.append(f"A core for each worker: --cpu 1, or fewer than {workers} workers on this host.")
    elif used < 1 - _WORTH_MENTION:
        cause = "the model waits for something else"
        evidence.append(f"It stands still for {1 - used - queued:.0%} of that time, not for want of a core.")
    remedies.append("An accelerator, or hosts with faster cores.")
    if not given.channels_last:
        remedies.append("For images: --set channels_last=true.")
    if given.precision == "float32":
        remedies.append("--set precision=bfloat16, where the processor has instructions for it.")
    if workers < given.cores:
        remedies.append(f"More workers (--workers) than {workers}, as this host has {given.cores} cores.")
    remedies.append("A larger global batch (--set global_batch=N), as single operations then have more to do.")
    return cause, None, tuple(evidence), tuple(remedies)


def _of_communication(measures: Measures, parts: _Parts, given: Circumstances) -> _Told:
    workers = len(measures.ranks)
    if parts.waiting > parts.transfer and parts.late is not None:
        slow = measures.ranks[parts.late]
        others = statistics.median(rank.compute for rank in measures.ranks if rank is not slow)
        used = min(1.0, slow.usage.compute_cpu / slow.usage.compute) if slow.usage.compute > 0 else 1.0
        evidence = [
            f"Rank {parts.late} computes for {_time(slow.compute)}, the others for {_time(others)}; they wait for it "
            f"in {slow.last / measures.steps:.0%} of the steps.",
            f"It uses a core for {used:.0%} of that time.",
        ]
        remedies = [f"Look at what else its host does, or replace it: rank {parts.late} is the slow one."]
        if given.logical < 4 * workers:
            remedies.append(
                f"More logical workers (--logical-workers {4 * workers}, another result): they are given to workers by "
                "their speed."
            )
        remedies.append("Fewer workers: without the slow one, if it cannot be made faster.")
        return f"waiting for rank {parts.late}", parts.late, tuple(evidence), tuple(remedies)
    evidence = [
        f"Once all {workers} workers have computed, the sum takes {_time(measures.transfer)}; computing takes "
        f"{_time(measures.compute)}."
    ]
    remedies = [
        f"Fewer workers than {workers} (--workers): less is sent and fewer have to meet.",
        "A larger global batch (--set global_batch=N): as much is sent, but less often; with micro_batches (gradients "
        "are accumulated) it needs no more memory.",
    ]
    return "the sum itself", None, tuple(evidence), tuple(remedies)


def _of_memory(measures: Measures, parts: _Parts, given: Circumstances) -> _Told:
    worst = max(range(len(measures.ranks)), key=lambda rank: _memory_fraction(measures.ranks[rank]))
    usage = measures.ranks[worst].usage
    alone = _alone([_memory_fraction(rank) for rank in measures.ranks])
    evidence = [
        f"Rank {worst} loses {_memory_fraction(measures.ranks[worst]):.0%} of its computing time to memory: "
        f"{usage.faults / usage.compute:,.0f} pages a second had to be read from a disk, and "
        f"{usage.compute_system / usage.compute:.0%} of the time it worked for the kernel."
    ]
    if usage.stalled > 0:
        evidence.append(f"Something stood still for want of memory for {_time(usage.stalled)} in all.")
    remedies = (
        f"Smaller parts: --set micro_batches={2 * given.micro_batches}.",
        "Activation checkpointing in the model (torch.utils.checkpoint), which computes again instead of keeping.",
        "More memory for each worker (--memory), fewer workers on this host, or a smaller memory= of the loader.",
    )
    return (
        "pages are read back" if usage.faults else "the kernel looks for memory",
        alone,
        (
            *evidence,
            *_near_the_limit(measures.ranks),
        ),
        remedies,
    )


def _of_overhead(measures: Measures, parts: _Parts, given: Circumstances) -> _Told:
    seconds = [rank.rest for rank in measures.ranks]
    evidence = (f"Callbacks and checkpoints take up to {_time(max(seconds))} of a step on a worker, in the mean.",)
    remedies = (
        "Checkpoint less often (checkpoints.shortest and checkpoints.longest).",
        "Callbacks that do less in on_step_end, or not in every step.",
    )
    return "callbacks and checkpoints", _alone(seconds), evidence, remedies


_ABOUT = {
    "input": _of_input,
    "compute": _of_compute,
    "communication": _of_communication,
    "memory": _of_memory,
    "overhead": _of_overhead,
}


def _alone(values: Sequence[float]) -> int | None:
    """The rank whose value is more than twice that of the others in the middle, if there is one."""
    largest = max(range(len(values)), key=lambda rank: values[rank])
    others = [value for rank, value in enumerate(values) if rank != largest]
    return largest if others and values[largest] > 2 * statistics.median_low(others) else None


def _near_the_limit(ranks: Sequence[RankMeasures]) -> tuple[str, ...]:
    fullest = max(range(len(ranks)), key=lambda rank: ranks[rank].usage.filled)
    filled = ranks[fullest].usage.filled
    if filled < _NEAR:
        return ()
    return (f"Rank {fullest} has come to {filled:.0%} of its memory limit (--memory).",)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
