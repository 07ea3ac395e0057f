"""Trainings beside those that a person would write by hand: `python -m benchmarks.training --help`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import Case, Measurement, environment, measure, show
from benchmarks.training_parts import read
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.events import MemberStarted
from ganglion.execution.entry import Entry
from ganglion.execution.supervisor import Listener, Supervisor
from ganglion.training import Factory, TrainingPlan, gang

ROOT = Path(__file__).parents[1]

SIZES = (93_322, 1_000_000, 25_000_000, 100_000_000)
"""Numbers: the reference model, a small one, ResNet-50, and a large one for a CPU."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all-reduce", action="store_true", help="sums of vectors on one host, beside gloo")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved repetitions of each case")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave longer vectors out")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--recovery", action="store_true", help="from the loss of a worker to the next committed step")
    parser.add_argument("--throughput", action="store_true", help="images per second beside hand-written loops")
    parser.add_argument("--slow", action="store_true", help="the same with one of two workers slowed four times")
    parser.add_argument("--steps", type=int, default=25, help="steps in a block of --throughput")
    options = parser.parse_args()
    context = environment(("torch",))
    if options.all_reduce:
        for world in (2, 4):
            for length in SIZES:
                if length <= options.largest:
                    show(
                        f"sum of {length:,} floats over {world} processes",
                        measure_all_reduce(world, length, options.rounds),
                        context,
                        as_json=options.json,
                    )
    if options.throughput or options.slow:
        with Trainings() as trainings:
            show_throughput(trainings, options, context)
    if options.recovery:
        with Trainings() as trainings:
            measurements = measure(
                [
                    Case(
                        name=f"{word} of one of {world} workers",
                        run=lambda world=world, number=number: trainings.recovery(world, number),
                        note=note,
                    )
                    for world in (2, 4)
                    for word, number, note in (
                        ("kill -9", signal.SIGKILL, "until the next committed step; at most 300 ms"),
                        ("SIGSTOP", signal.SIGSTOP, "until the next committed step; at most 1000 ms"),
                    )
                ],
                options.rounds,
            )
        show("recovery", measurements, context, as_json=options.json)


class Trainings:
    """Runs trainings of the reference model on one supervisor."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ganglion-bench-")))
        self.supervisor = Supervisor(LocalBackend(self.folder, LocalConfig(cpu=2.0)), self.folder)
        self._stack.callback(self.supervisor.close)
        self._count = 0

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def submit(
        self, workers: int, logical: int, *, steps: int, listener: Listener | None = None, **fields: object
    ) -> tuple:
        """Start a training of some steps; its job and the folder of its watches."""
        self._count += 1
        watches = self.folder / f"watches-{self._count}"
        watches.mkdir()
        watch = Factory(entry=Entry(path="benchmarks.training_parts:Watch"), arguments={"folder": str(watches)})
        plan = TrainingPlan(
            model=Factory(entry=Entry(path="benchmarks.training_parts:model")),
            train=Factory(entry=Entry(path="benchmarks.training_parts:Images"), arguments={"count": 128 * steps}),
            logical_workers=logical,
            **({"callbacks": (watch,)} | fields),
        )
        spec = gang(plan, id=f"training-{self._count}", workers=workers, cpu=0.1, import_path=(str(ROOT),))
        return self.supervisor.submit(spec, listener), watches

    def recovery(self, workers: int, number: int) -> float:
        """Seconds from a signal to the last worker until the next step that is committed without it."""
        pids = {}

        def listen(event: object) -> None:
            if isinstance(event, MemberStarted):
                pids[event.member, event.attempt] = event.pid

        job, watches = self.submit(workers, workers, steps=2000, listener=listen)
        victim = f"worker-{workers - 1}"
        while len(read(watches, victim)) < 20:
            time.sleep(0.02)
        hit = time.monotonic()
        os.kill(pids[victim, 1], number)
        until = hit + 1.5
        while time.monotonic() < until:
            time.sleep(0.1)
        job.cancel()
        job.wait(20)
        times = [at for _, at, _ in read(watches, "worker-0")]
        step = statistics.median(after - before for before, after in pairwise(times) if after < hit)
        # What comes later is the arrival of the one that replaces it.
        gaps = [(after - before, after) for before, after in pairwise(times) if after > hit and before < hit + 2 * step]
        return max(gaps)[1] - hit

    @contextmanager
    def ours(self, logical: int, steps: int) -> Iterator[Loop]:
        """A training of two workers that takes blocks of steps."""
        folder = self.folder / f"blocks-{self._count}"
        folder.mkdir()
        for member in ("worker-0", "worker-1"):
            for end in ("go", "done"):
                os.mkfifo(folder / f"{member}.{end}")
        blocks = Factory(
            entry=Entry(path="benchmarks.training_parts:Blocks"), arguments={"folder": str(folder), "steps": steps}
        )
        pids = {}

        def listen(event: object) -> None:
            if isinstance(event, MemberStarted):
                pids[event.member] = event.pid

        job, _ = self.submit(2, logical, steps=100, listener=listen, epochs=1000, callbacks=(blocks,))

        def block() -> tuple[float, float]:
            for member in ("worker-0", "worker-1"):
                (folder / f"{member}.go").write_bytes(b"")
            figures = [(folder / f"{member}.done").read_text().split() for member in ("worker-0", "worker-1")]
            return max(float(wall) for wall, _ in figures), sum(float(cpu) for _, cpu in figures)

        try:
            yield Loop(block, lambda: pids["worker-1"])
        finally:
            job.cancel()
            job.wait(20)


class Loop:
    """Something that takes a block of steps on two processes.

    Args:
        block: does it; wall seconds, and CPU seconds of both.
        second: the process id of one of them.
    """

    def __init__(self, block: Callable[[], tuple[float, float]], second: Callable[[], int]) -> None:
        self.block = block
        self.second = second
        self.cpu: list[float] = []

    def run(self) -> float:
        """One block; its wall seconds."""
        wall, cpu = self.block()
        self.cpu.append(cpu)
        return wall

    def run_slowed(self) -> float:
        """One block while one process gets a quarter of the time: it runs for 5 ms and is stopped for 15."""
        over = threading.Event()
        pid = self.second()

        def slow() -> None:
            while not over.wait(0.005):
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.015)
                os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            return self.run()
        finally:
            over.set()
            thread.join()


@contextmanager
def by_hand(layout: str, steps: int) -> Iterator[Loop]:
    """Two processes of the hand-written loop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.peers_training.ddp", layout, str(steps)]
    places = [{"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for rank in "01"]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | place
        )
        for place in places
    ]

    def block() -> tuple[float, float]:
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        figures = [process.stdout.readline().split() for process in processes]
        return max(float(wall) for wall, _ in figures), sum(float(cpu) for _, cpu in figures)

    try:
        yield Loop(block, lambda: processes[1].pid)
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()


def show_throughput(trainings: Trainings, options: argparse.Namespace, context: dict) -> None:
    """Blocks of steps in turn; wall seconds in a table, images per second and CPU beneath it."""
    with ExitStack() as stack:
        loops = {
            "DDP by hand, channels last": stack.enter_context(by_hand("nhwc", options.steps)),
            "DDP by hand, NCHW": stack.enter_context(by_hand("nchw", options.steps)),
            "ours, V=2": stack.enter_context(trainings.ours(2, options.steps)),
            "ours, V=8": stack.enter_context(trainings.ours(8, options.steps)),
        }
        first = "DDP by hand, channels last"
        notes = {"ours, V=2": "0.95x; 1.2x NCHW", "ours, V=8": "0.9x"}
        for title, slowed in (("a block of steps", False), ("a block, one of two workers slowed four times", True)):
            if not (options.slow if slowed else options.throughput):
                continue
            cases = [
                Case(
                    name=name,
                    run=loop.run_slowed if slowed else loop.run,
                    against=None if name == first else first,
                    note="2x" if slowed and name == "ours, V=8" else notes.get(name, ""),
                )
                for name, loop in loops.items()
            ]
            for loop in loops.values():
                loop.cpu.clear()
            measurements = measure(cases, options.rounds)
            images = 128 * options.steps
            summary = {}
            for taken in measurements:
                cpu = statistics.median(loops[taken.case.name].cpu)
                pairs = zip(measurements[0].seconds, taken.seconds, strict=True)
                summary[taken.case.name] = (
                    f"{images / taken.median:,.0f} images/s, {1e6 * cpu / images:.0f} us CPU per image, "
                    f"median of paired ratios {statistics.median(base / ours for base, ours in pairs):.2f}"
                )
            show(title, measurements, context | summary, as_json=options.json)


def measure_all_reduce(world: int, length: int, rounds: int) -> list[Measurement]:
    """Ours in place, ours with copies in and out, and gloo's, in turn by the same processes."""
    with ExitStack() as stack:
        ask = stack.enter_context(_summing(world, length))
        return measure(
            [
                Case(name="gloo", run=lambda: ask("gloo")),
                Case(
                    name="gradients in shared memory", run=lambda: ask("in_place"), against="gloo", note="4x from 1 M"
                ),
                Case(name="copied in and out", run=lambda: ask("copied"), against="gloo", note="1.7x"),
            ],
            rounds,
        )


@contextmanager
def _summing(world: int, length: int) -> Iterator:
    """Processes that sum on command."""
    command = [sys.executable, "-m", "benchmarks.training_all_reduce", str(world), str(length)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(word: str) -> float:
            process.stdin.write(word + "\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield ask
        process.stdin.close()


if __name__ == "__main__":
    main()
