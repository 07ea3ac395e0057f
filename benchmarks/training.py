"""Trainings beside those that a person would write by hand: `python -m benchmarks.training --help`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import training_identity
from benchmarks.harness import Case, Measurement, environment, measure, show
from benchmarks.training_gangs import Trainings
from benchmarks.training_recovery import compare
from benchmarks.training_throughput import PEERS, show_throughput

SIZES = (93_322, 1_000_000, 25_000_000, 100_000_000)
"""Numbers: the reference model, a small one, ResNet-50, and a large one for a CPU."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all-reduce", action="store_true", help="sums of vectors on one host, beside gloo")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved repetitions of each case")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave longer vectors out")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument(
        "--recovery",
        action="store_true",
        help="as benchmarks.training_recovery, without peers",
    )
    parser.add_argument("--identity", action="store_true", help="as benchmarks.training_identity")
    parser.add_argument("--throughput", action="store_true", help="images per second beside hand-written loops")
    parser.add_argument("--slow", action="store_true", help="the same with one of two workers slowed four times")
    parser.add_argument("--peers", nargs="*", default=[], choices=PEERS, help="others beside --throughput")
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
            show_throughput(
                trainings,
                [title for title in ("throughput", "slow") if getattr(options, title)],
                peers=options.peers,
                rounds=options.rounds,
                steps=options.steps,
                context=context,
                as_json=options.json,
            )
    if options.identity:
        training_identity.compare(schedules=2)
    if options.recovery:
        compare([2, 4], [], rounds=options.rounds, as_json=options.json)


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
