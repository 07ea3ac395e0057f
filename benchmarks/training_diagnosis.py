"""Whether a training is told what it is bound by: `python -m benchmarks.training_diagnosis --help`.

Bottlenecks of varied strength are put into real trainings, and the verdict in each result is compared with what was
put in. The strengths follow from a seed; those that thresholds were chosen with came from seeds below 100.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from benchmarks.training_bottlenecks import GROUPS
from ganglion.artifacts.store import FolderStore
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.data import ArraySource, prepare
from ganglion.execution.entry import Entry
from ganglion.execution.supervisor import Supervisor
from ganglion.pipelines.train import LOADER
from ganglion.testing.faults import Fault, with_faults
from ganglion.training import Factory, Optimizer, TrainingPlan, TrainingResult, gang
from ganglion.training.diagnosis import Verdict

ROOT = Path(__file__).parents[1]

PARTS = "benchmarks.training_bottlenecks"

HELD_OUT_SEED = 4711
"""Strengths that no threshold was chosen with."""

TABLE = 256 * 2**20
"""Bytes of the table that models read from disk."""


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """A training with a bottleneck.

    Attributes:
        name: of the kind, for a person.
        bound: the verdict that is right.
        rank: the worker that it has to name, if any.
        strength: for a person.
        model: arguments of `Network`.
        source: arguments of `Points`.
        transform: seconds of processor time that a transform in Python takes for a record, in a loader of a prepared
            dataset instead of `Points`.
        callbacks: entries and arguments.
        faults: what happens besides.
        steps: to be taken.
        workers: how many.
    """

    name: str
    bound: str
    strength: str
    rank: int | None = None
    model: dict[str, Any] = {}
    source: dict[str, Any] = {}
    transform: float = 0.0
    callbacks: tuple[tuple[str, dict[str, Any]], ...] = ()
    faults: tuple[Fault, ...] = ()
    steps: int = 30
    workers: int = 2


Kind = Callable[[random.Random, Path], Injected]


def _between(chance: random.Random, low: float, high: float) -> float:
    """A strength, as likely to be in one octave as in another."""
    return float(low * (high / low) ** chance.random())


def _waits(chance: random.Random, _folder: Path) -> Injected:
    seconds = _between(chance, 0.03, 0.2)
    return Injected(name="slow source", bound="input", strength=_ms(seconds), source={"sleep": seconds})


def _works(chance: random.Random, _folder: Path) -> Injected:
    seconds = _between(chance, 0.03, 0.1)
    return Injected(name="source that computes", bound="input", strength=_ms(seconds), source={"work": seconds})


def _transforms(chance: random.Random, _folder: Path) -> Injected:
    seconds = _between(chance, 0.001, 0.003)
    return Injected(
        name="loader with a transform", bound="input", strength=f"{_ms(seconds)} a record", transform=seconds
    )


def _one_waits(chance: random.Random, _folder: Path) -> Injected:
    seconds, index = _between(chance, 0.05, 0.2), chance.randrange(2)
    source = {"sleep": seconds, "index": index}
    return Injected(name="slow source of one", bound="input", rank=index, strength=_ms(seconds), source=source)


def _computes(chance: random.Random, _folder: Path) -> Injected:
    hidden, batch = int(_between(chance, 400, 1200)), chance.choice((128, 256))
    return Injected(
        name="large model",
        bound="compute",
        strength=f"{hidden} wide, {batch} records",
        model={"hidden": hidden, "layers": 4},
        source={"batch": batch},
    )


def _computes_in_python(chance: random.Random, _folder: Path) -> Injected:
    seconds = _between(chance, 0.03, 0.1)
    return Injected(name="slow model", bound="compute", strength=_ms(seconds), model={"work": seconds})


def _sums_slowly(chance: random.Random, _folder: Path) -> Injected:
    seconds = _between(chance, 0.03, 0.15)
    slow = Fault(kind="slow", point="in_reduce", seconds=seconds, times=0, rank=chance.choice((None, 0, 1)))
    return Injected(name="slow transport", bound="communication", strength=_ms(seconds), faults=(slow,))


def _sends_much(chance: random.Random, _folder: Path) -> Injected:
    delay = _between(chance, 0.03, 0.1)
    return Injected(
        name="TCP with a delay",
        bound="communication",
        strength=_ms(delay),
        callbacks=(("OverTcp", {}),),
        faults=(Fault(kind="slow", point="in_reduce", seconds=delay, times=0),),
        model={"ballast": 200_000},
    )


def _one_is_late(chance: random.Random, _folder: Path) -> Injected:
    seconds, index = _between(chance, 0.04, 0.15), chance.randrange(2)
    slow = Fault(kind="slow", seconds=seconds, times=0, rank=index)
    return Injected(name="slow peer", bound="communication", rank=index, strength=_ms(seconds), faults=(slow,))


def _one_computes_more(chance: random.Random, _folder: Path) -> Injected:
    seconds, index = _between(chance, 0.05, 0.12), chance.randrange(2)
    model = {"work": seconds, "index": index}
    return Injected(
        name="peer that computes more", bound="communication", rank=index, strength=_ms(seconds), model=model
    )


def _pages(chance: random.Random, folder: Path) -> Injected:
    pages = int(_between(chance, 300, 2000))
    model = {"pages": pages, "table": str(table(folder)), "evict": True}
    return Injected(name="pages are dropped", bound="memory", strength=f"{pages} pages", model=model)


def _limited(chance: random.Random, folder: Path) -> Injected:
    pages, limit = int(_between(chance, 400, 2000)), chance.randint(16, 48) * 2**20
    if not os.access(GROUPS, os.W_OK):
        return _pages(chance, folder)
    model = {"pages": pages, "table": str(table(folder)), "limit": limit}
    strength = f"{pages} pages, {limit >> 20} MiB"
    return Injected(name="control group without room", bound="memory", strength=strength, model=model)


def _reports(chance: random.Random, _folder: Path) -> Injected:
    seconds = _between(chance, 0.03, 0.15)
    slow = ("Slow", {"sleep": seconds})
    return Injected(name="slow callback", bound="overhead", strength=_ms(seconds), callbacks=(slow,))


def _mixed(chance: random.Random, _folder: Path) -> Injected:
    """One of three takes the most time, each other one up to two fifths as long.

    The model sleeps, as a process does that waits for its accelerator.
    """
    seconds = _between(chance, 0.06, 0.15)
    dominant = chance.choice(("input", "compute", "communication"))
    each = {
        bound: seconds * (1.0 if bound == dominant else chance.uniform(0.1, 0.4))
        for bound in ("input", "compute", "communication")
    }
    strength = ", ".join(f"{bound} {_ms(part)}" for bound, part in each.items())
    return Injected(
        name=f"mixture, most {dominant}",
        bound=dominant,
        strength=strength,
        source={"sleep": each["input"]},
        model={"sleep": each["compute"]},
        faults=(Fault(kind="slow", point="in_reduce", seconds=each["communication"], times=0),),
    )


KINDS: tuple[Kind, ...] = (
    *(_waits, _works, _transforms, _one_waits, _computes, _computes_in_python, _sums_slowly, _sends_much, _one_is_late),
    *(_one_computes_more, _pages, _limited, _reports, _mixed, _mixed, _mixed),
)


def draw(seed: int, count: int, folder: Path) -> Iterator[Injected]:
    """Bottlenecks that follow from a seed, one kind after the other."""
    chance = random.Random(seed)
    for number in range(count):
        yield KINDS[number % len(KINDS)](chance, folder)


def table(folder: Path) -> Path:
    """A large file on disk."""
    path = folder / "table"
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(TABLE // 2**20):
                file.write(os.urandom(2**20))
            file.flush()
            os.fsync(file.fileno())
    return path


def run(injected: Injected, supervisor: Supervisor, folder: Path, number: int) -> Verdict:
    """Train with a bottleneck; what the result says that it was bound by."""
    plan = TrainingPlan(
        model=_part("Network", injected.model),
        train=_source(injected, folder),
        input_column="point",
        optimizer=Optimizer(name="sgd"),
        logical_workers=injected.workers,
        channels_last=False,
        callbacks=tuple(_part(name, arguments) for name, arguments in injected.callbacks),
    )
    spec = gang(
        plan, id=f"diagnosis-{number}", workers=injected.workers, cpu=0.1, import_path=(str(ROOT),), timeout=120
    )
    if injected.faults:
        place = folder / f"faults-{number}"
        place.mkdir()
        spec = with_faults(spec, injected.faults, place)
    outcome = supervisor.submit(spec).wait(150)
    outcome.raise_for_failure()
    for group in GROUPS.glob("ganglion-bench-*"):
        with suppress(OSError):  # of another benchmark that is still running
            group.rmdir()
    return msgspec.convert(outcome.value, TrainingResult).diagnosis


def _source(injected: Injected, folder: Path) -> Factory:
    if not injected.transform:
        return _part("Points", {"steps": injected.steps, **injected.source})
    store = FolderStore(folder / "store")
    points = np.random.default_rng(0).normal(size=(32 * injected.steps, 64)).astype(np.float32)
    prepared = prepare(ArraySource({"point": points, "label": (points.sum(1) > 0).astype(np.int64)}), store)
    transform = {
        "type": "ganglion.data.transforms.map:Map",
        "function": {"entry": {"path": f"{PARTS}:worked_on"}, "arguments": {"seconds": injected.transform}},
        "fields": msgspec.to_builtins(prepared.schema),
    }
    arguments = {
        "store": str(store.root),
        "dataset": msgspec.to_builtins(prepared.artifact),
        "global_batch": 32,
        "transforms": [transform],
    }
    return Factory(entry=LOADER, arguments=arguments)


def overhead(supervisor: Supervisor, folder: Path, blocks: int) -> dict[str, float]:
    """What the stopwatch costs: the fraction by which blocks of steps take more with it than without.

    Blocks with and without it take turns in the same processes; each is compared with those before and after it.
    Processor time of both processes is compared beside wall time, since a busy machine disturbs that less.
    """
    steps = 50
    plan = TrainingPlan(
        model=_part("Network", {"hidden": 256, "layers": 3}),
        train=_part("Points", {"steps": steps * blocks, "batch": 256}),
        input_column="point",
        logical_workers=2,
        channels_last=False,
        callbacks=(_part("OnAndOff", {"folder": str(folder), "steps": steps}),),
    )
    spec = gang(plan, id="overhead", workers=2, cpu=0.1, import_path=(str(ROOT),), timeout=500)
    supervisor.submit(spec).wait(510).raise_for_failure()
    mine, other = (
        [[float(field) for field in line.split()] for line in (folder / f"worker-{n}.blocks").read_text().splitlines()]
        for n in range(2)
    )
    on = [line[0] == 1 for line in mine]
    figures = {
        "step_seconds": min(line[1] for line in mine) / steps,
        "step_cpu": statistics.median(0.5 * (line[2] + second[2]) for line, second in zip(mine, other, strict=True))
        / steps,
    }
    for name, seconds in (
        ("wall", [line[1] for line in mine]),
        ("cpu", [line[2] + second[2] for line, second in zip(mine, other, strict=True)]),
    ):
        ratios = [
            seconds[place] / (0.5 * (seconds[place - 1] + seconds[place + 1])) - 1
            for place in range(3, len(on) - 1)
            if on[place]
        ]
        quarters = statistics.quantiles(ratios, n=4)
        figures |= {
            name: statistics.median(ratios),
            f"{name}_lower_quartile": quarters[0],
            f"{name}_upper_quartile": quarters[2],
            "pairs": float(len(ratios)),
        }
    return figures


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=48, help="bottlenecks")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of their strengths; below 100 for tuning")
    parser.add_argument("--blocks", type=int, default=400, help="blocks of 50 steps for the overhead; 0 leaves it out")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory(prefix="ganglion-bench-") as name:
        folder = Path(name)
        supervisor = Supervisor(LocalBackend(folder, LocalConfig(cpu=2.0)), folder)
        try:
            for number, injected in enumerate(draw(options.seed, options.count, folder)):
                verdict = run(injected, supervisor, folder, number)
                right = verdict.bound == injected.bound and injected.rank in (None, verdict.rank)
                cases.append((injected, verdict, right))
                sys.stderr.write(f"{number + 1}/{options.count} {injected.name}: {verdict.summary}\n")
            cost = overhead(supervisor, folder, options.blocks) if options.blocks else None
        finally:
            supervisor.close()
    context = environment(("torch",))
    if options.json:
        document = {
            "benchmark": "training diagnosis",
            "environment": context,
            "right": sum(right for *_, right in cases) / max(1, len(cases)),
            "cases": [{"injected": injected, "verdict": verdict, "right": right} for injected, verdict, right in cases],
            "overhead": cost,
        }
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
        return
    _show(cases, cost, context)


def _show(cases: list[tuple[Injected, Verdict, bool]], cost: dict[str, float] | None, context: dict[str, Any]) -> None:
    console = Console(width=160)
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    listing = Table("injected", "strength", "right", "verdict", "cause", "", title="bottlenecks")
    for injected, verdict, right in cases:
        about = "" if injected.rank is None else f", rank {injected.rank}"
        mark = "" if right else "WRONG"
        listing.add_row(
            injected.name, injected.strength, f"{injected.bound}{about}", verdict.summary, verdict.cause, mark
        )
    console.print(listing)
    counts = Counter((injected.bound, verdict.bound) for injected, verdict, _ in cases)
    names = sorted({name for pair in counts for name in pair})
    confusion = Table("injected \\ verdict", *names, title="confusion")
    for row in names:
        confusion.add_row(row, *(str(counts[row, column] or "") for column in names))
    console.print(confusion)
    right = sum(right for *_, right in cases)
    console.print(f"{right} of {len(cases)} right ({right / max(1, len(cases)):.1%}); at least 95% are wanted")
    if cost is not None:
        for name in ("cpu", "wall"):
            console.print(
                f"overhead in {name} time {cost[name]:+.2%} (quartiles {cost[f'{name}_lower_quartile']:+.2%}, "
                f"{cost[f'{name}_upper_quartile']:+.2%}; {cost['pairs']:.0f} pairs, steps of "
                f"{_ms(cost['step_seconds'])}); at most 1% is wanted"
            )
        console.print(f"that is {1e6 * cost['cpu'] * cost['step_cpu']:.0f} us of processor time per step and process")


def _part(name: str, arguments: dict[str, Any]) -> Factory:
    return Factory(entry=Entry(path=f"{PARTS}:{name}"), arguments=arguments)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


if __name__ == "__main__":
    main()
