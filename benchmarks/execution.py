"""How long it takes until user code runs: `python -m benchmarks.execution [--json] [--repetitions N]`.

Measured through the public path, `Supervisor.submit` on the local backend, with a warm zygote: its preloads are done
before the first counted repetition. Compared with a new interpreter that imports torch, and with the fallback that
starts an interpreter for each member. Then bare Ray, the Ray backend and the local backend, round by round in turn
(`--no-ray` leaves them out). Wall times of different processes are compared; they share one clock.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, environment, measure, show
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.execution.backend import Backend
from ganglion.execution.entry import entry_of
from ganglion.execution.spec import Gang, Role, Task
from ganglion.execution.supervisor import Supervisor

TORCH = ("torch", "torch.distributed", "torch._dynamo")
"""What a training process needs before its first optimizer step: optimizers import `torch._dynamo` when first made."""

PATIENCE = 300.0
"""Seconds after which a job counts as stuck."""


def now() -> float:
    """An entry that says when it was called."""
    return time.time()


def take_a_step() -> float:
    """An entry that trains a small model for one step and says when that was done."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,)))
    loss.backward()
    optimizer.step()
    return time.time()


class Bench:
    """Submits one job after the other to one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.numbers = itertools.count(1)

    def task(self, entry: Callable[[], float], preload: tuple[str, ...] = ()) -> tuple[float, float, float]:
        """Run a task; the wall times of its submission, of what its entry returned, and of its end."""
        spec = Task(id=f"task-{next(self.numbers)}", entry=entry_of(entry), preload=preload)
        begin = time.time()
        outcome = self.supervisor.submit(spec).wait(PATIENCE)
        outcome.raise_for_failure()
        return begin, outcome.value, time.time()

    def gang(self, preload: tuple[str, ...] = ()) -> float:
        """Seconds from the submission of a gang of two until both members run user code."""
        resources = Resources(cpu=0.5)
        roles = (Role(count=2),)
        number = next(self.numbers)
        spec = Gang(id=f"gang-{number}", entry=entry_of(now), preload=preload, roles=roles, resources=resources)
        begin = time.time()
        outcome = self.supervisor.submit(spec).wait(PATIENCE)
        outcome.raise_for_failure()
        return max(float(exit_.value) for exit_ in outcome.exits.values()) - begin

    def until_user_code(self, preload: tuple[str, ...] = ()) -> float:
        """Seconds from the submission of a task until its entry is called."""
        begin, called, _end = self.task(now, preload)
        return called - begin

    def until_step(self) -> float:
        """Seconds from the submission of a task until its first optimizer step is done."""
        begin, stepped, _end = self.task(take_a_step, TORCH)
        return stepped - begin

    def round_trip(self) -> float:
        """Seconds from the submission of a task until its result is back."""
        begin, _called, end = self.task(now)
        return end - begin

    def burst(self, count: int) -> float:
        """Seconds for `count` tasks submitted at once."""
        half = Resources(cpu=0.5)
        begin = time.time()
        jobs = [
            self.supervisor.submit(Task(id=f"task-{next(self.numbers)}", entry=entry_of(now), resources=half))
            for _ in range(count)
        ]
        for job in jobs:
            job.wait(PATIENCE).raise_for_failure()
        return time.time() - begin


def fresh(code: str) -> float:
    """Seconds until a new interpreter has run `code`, measured by the time it writes at the end."""
    begin = time.time()
    program = f"import time\n{code}\nprint(time.time())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) - begin


@contextlib.contextmanager
def bench(make: Callable[[Path], Backend]) -> Iterator[Bench]:
    """A supervisor of its own, gone with all its processes at the end."""
    with tempfile.TemporaryDirectory(prefix="ganglion-benchmark-") as folder:
        supervisor = Supervisor(make(Path(folder)), Path(folder))
        try:
            yield Bench(supervisor)
        finally:
            supervisor.close()


def cases(forked: Bench, spawned: Bench) -> list[Case]:
    """Everything that is measured, in the order of the table."""
    step = "import torch\nfrom benchmarks.execution import take_a_step\ntake_a_step()"
    return [
        Case(name="new interpreter, import torch", run=lambda: fresh("import torch")),
        Case(
            name="task with torch until user code, fork",
            run=lambda: forked.until_user_code(("torch",)),
            against="new interpreter, import torch",
            note="target: 50x or more",
        ),
        Case(name="new interpreter until the first optimizer step", run=lambda: fresh(step)),
        Case(
            name="task until the first optimizer step, fork",
            run=forked.until_step,
            against="new interpreter until the first optimizer step",
            note="target: 0.3 s or less",
        ),
        Case(name="task round trip, spawn", run=spawned.round_trip),
        Case(name="task round trip, fork", run=forked.round_trip, against="task round trip, spawn"),
        Case(name="gang of 2 until all run user code, spawn", run=spawned.gang),
        Case(
            name="gang of 2 until all run user code, fork",
            run=lambda: forked.gang(TORCH),
            against="gang of 2 until all run user code, spawn",
        ),
    ]


def local(start_method: str) -> Callable[[Path], Backend]:
    """Makes local backends with two CPUs."""
    return lambda folder: LocalBackend(folder, LocalConfig(cpu=2.0, start_method=start_method))


MANY = 200
"""Tasks of a burst."""

ROUND_TRIPS = 20
"""Rounds of round trips beside Ray for each round of the other cases: they take milliseconds and vary much."""


def ray_cases(on_ray: Bench, forked: Bench) -> tuple[list[Case], list[Case], list[Case]]:
    """Bare Ray, the Ray backend and the local one: round trips, bursts, and gangs.

    These are measured one after the other, since after a gang or a burst bare Ray ends workers, and its next tasks
    would wait for new ones.
    """
    from benchmarks import bare_ray

    task, gang, burst = (
        Case(name="task round trip, bare Ray", run=bare_ray.round_trip),
        Case(name="gang of 2 until all run user code, bare Ray", run=bare_ray.gang),
        Case(name="200 tasks at once, bare Ray", run=lambda: bare_ray.burst(MANY)),
    )
    target = "target: 0.67x or more"
    round_trips = [
        task,
        Case(name="task round trip, Ray backend", run=on_ray.round_trip, against=task.name, note=target),
        Case(name="task round trip, local", run=forked.round_trip, against=task.name, note=target),
    ]
    bursts = [
        burst,
        Case(name="200 tasks at once, Ray backend", run=lambda: on_ray.burst(MANY), against=burst.name),
        Case(name="200 tasks at once, local", run=lambda: forked.burst(MANY), against=burst.name),
    ]
    gangs = [
        gang,
        Case(name="gang of 2 until all run user code, Ray backend", run=on_ray.gang, against=gang.name, note=target),
        Case(name="gang of 2 until all run user code, local", run=forked.gang, against=gang.name, note=target),
    ]
    return round_trips, bursts, gangs


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.execution", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--repetitions", type=int, default=7, help="rounds that count")
    parser.add_argument("--no-ray", action="store_true", help="leave the Ray backend out")
    options = parser.parse_args(arguments)
    with bench(local("fork")) as forked:
        forked.round_trip()  # what preloads nothing gets a warden of its own, and does not share that of torch
        with bench(local("spawn")) as spawned:
            measurements = measure(cases(forked, spawned), options.repetitions)
        if not options.no_ray:
            from benchmarks import bare_ray
            from ganglion.backends.ray.backend import RayBackend, RayConfig

            os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps(bare_ray.RESOURCES)  # of the cluster started here
            with bench(lambda folder: RayBackend(folder, RayConfig(address="local"))) as on_ray:
                round_trips, bursts, gangs = ray_cases(on_ray, forked)
                measurements += measure(round_trips, ROUND_TRIPS * options.repetitions)
                measurements += measure(bursts, options.repetitions)
                measurements += measure(gangs, options.repetitions)
    context: dict[str, Any] = environment(["ganglion", "torch", "ray"]) | {"repetitions": options.repetitions}
    show("execution: until user code runs", measurements, context, as_json=options.json)


if __name__ == "__main__":
    main()
