"""Twice the load that a server bears, with a deadline: `python -m benchmarks.serving_overload [--json] [--rounds N]`.

Each request is of use within 50 ms of its planned moment. First the capacity is measured by 16 requests in flight, then
the peak: the most answers in time under an open load of about the capacity; then what is left of it at twice the
capacity, how many answers come late, refusals among them, and how long a refusal takes. Peers know nothing of
deadlines: their clients throw late answers away. Both loads come after each other in every round, since a shared
machine does not stay the same. The generator needs more of the cores for the larger load, so what is left of the peak
is shown by the cores left as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.data.peers.environments import NotInstallableError
from benchmarks.harness import environment
from benchmarks.serving_load import generate
from benchmarks.serving_models import BenchModel, make_deep
from benchmarks.serving_open_loop import Outcome, Plan, run
from benchmarks.serving_processes import ended_in_order
from benchmarks.serving_servers import FLOORS, OURS, PEERS, RunningServer, Server, ServerFailedError

DEADLINE = 0.05
NEAR = (0.8, 0.9, 1.0)
"""Parts of the capacity at which the peak is looked for."""

OVER = 2.0
"""Times the capacity that is asked at once."""

GOODPUT_TARGET, LATE_TARGET, PEER_TARGET = 0.95, 0.001, 5.0
"""Of our peak that is left, share of late answers, and times the best peer's that ours is."""

_FLIGHT = 16


@dataclass
class Result:
    """What one server did, one entry for each round."""

    server: Server
    capacity: list[float] = field(default_factory=list)
    peak: list[Outcome] = field(default_factory=list)
    over: list[Outcome] = field(default_factory=list)
    problem: str = ""

    @property
    def kept(self) -> float:
        """Median of the part of the peak that is left."""
        pairs = zip(self.peak, self.over, strict=True)
        return statistics.median(over.goodput / max(peak.goodput, 1e-9) for peak, over in pairs)

    @property
    def kept_of_cores(self) -> float:
        """The same of what was answered for each core that the generator left to the server."""
        pairs = zip(self.peak, self.over, strict=True)
        return statistics.median(_per_core(over) / max(_per_core(peak), 1e-9) for peak, over in pairs)

    @property
    def goodput(self) -> float:
        """Median of good answers in time a second under overload."""
        return statistics.median(outcome.goodput for outcome in self.over)

    @property
    def late(self) -> float:
        """Share of answers under overload that came late, refusals that did among them, in all rounds."""
        late = sum(outcome.late for outcome in self.over)
        return late / max(1, late + sum(outcome.on_time for outcome in self.over))

    @property
    def given_up(self) -> float:
        """Share of what had been let in that was given up within the deadline, in all rounds."""
        given_up = sum(outcome.given_up for outcome in self.over)
        return given_up / max(1, given_up + sum(outcome.on_time + outcome.late for outcome in self.over))


def _per_core(outcome: Outcome) -> float:
    """Good answers in time a second, for each core that is not the generator's."""
    return outcome.goodput / max((os.cpu_count() or 1) - outcome.generator, 0.1)


def measure(result: Result, model: BenchModel, folder: Path, rounds: int, seconds: float) -> None:
    """Start a server and ask it, round after round."""
    ours = result.server.environment is None
    try:
        with RunningServer(result.server, model, folder) as running:
            generate(running.url, running.body, _FLIGHT, 1)  # warm
            for round_ in range(rounds):
                load = generate(running.url, running.body, _FLIGHT, 2)
                capacity = load.rate
                if capacity < 1.0:
                    raise ServerFailedError(f"of {_FLIGHT} requests in flight none was answered; {load.failed} failed")

                def ask(times: float, capacity: float = capacity, round_: int = round_) -> Outcome:
                    plan = Plan(url=running.url, body=str(running.body), rate=times * capacity, seconds=seconds,
                                deadline=DEADLINE, tell=ours, seed=round_)  # fmt: skip
                    return run(plan)

                result.capacity.append(capacity)
                result.peak.append(max((ask(times) for times in NEAR), key=lambda outcome: outcome.goodput))
                result.over.append(ask(OVER))
    except (ServerFailedError, NotInstallableError) as error:
        result.problem = str(error)


def document(results: Sequence[Result], context: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    rows = [
        {"server": result.server.name, "problem": result.problem, "capacity": result.capacity,
         "peak": [asdict(outcome) for outcome in result.peak], "over": [asdict(outcome) for outcome in result.over]}
        for result in results
    ]  # fmt: skip
    return {"benchmark": "serving_overload", "environment": context, "deadline": DEADLINE, "rows": rows}


def show(results: Sequence[Result], context: dict[str, Any]) -> None:
    """A table for a person."""
    console = Console(width=max(Console().width, 160))
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    table = Table("server", title=f"{OVER:g} times the capacity, answers of use within {1e3 * DEADLINE:g} ms")
    for heading in ("capacity", "peak in time", "overload: in time", "of peak", "of peak, by cores left", "late",
                    "given up in time", "refusal p99", "generator's cores", "sent late, p99"):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_column("ours / it")
    ours = next(result for result in results if result.server.environment is None)
    for result in results:
        table.add_row(result.server.name, *_cells(result, ours))
    console.print(table)
    targets = (
        f"at least {GOODPUT_TARGET:.0%} of the peak, at most {LATE_TARGET:.1%} late, {PEER_TARGET:g}x the best peer"
    )
    console.print(f"Targets of ours: {targets}.")


def _cells(result: Result, ours: Result) -> list[str]:
    if result.problem or not result.over:
        return [*[""] * 10, f"not measured: {result.problem}"]
    median = statistics.median
    return [
        f"{median(result.capacity):,.0f}",
        f"{median(outcome.goodput for outcome in result.peak):,.0f}",
        f"{result.goodput:,.0f}",
        f"{result.kept:.2f}",
        f"{result.kept_of_cores:.2f}",
        f"{result.late:.2%}",
        f"{result.given_up:.2%}",
        f"{1e3 * median(outcome.refusal_p99 for outcome in result.over):.1f} ms",
        " / ".join(f"{median(one.generator for one in many):.2f}" for many in (result.peak, result.over)),
        f"{1e3 * median(outcome.slip for outcome in result.over):.1f} ms",
        "" if result is ours or ours.problem else f"{ours.goodput / max(result.goodput, 0.1):.1f}x",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_overload", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is asked")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each open load")
    parser.add_argument("--no-peers", action="store_true", help="only ours")
    parser.add_argument("--server", action="append", default=[], help="only servers whose name begins so, and ours")
    options = parser.parse_args(arguments)
    servers = [OURS[-1], *([] if options.no_peers else (*FLOORS, *PEERS))]
    if options.server:
        servers = [server for server in servers if server is OURS[-1] or server.name.startswith(tuple(options.server))]
    results = [Result(server) for server in servers]
    with ended_in_order(), tempfile.TemporaryDirectory(prefix="ganglion-overload-") as temporary:
        folder = Path(temporary)
        model = make_deep(folder / "models", name="medium", channels=40, layers=6)
        for number, result in enumerate(results):
            sys.stderr.write(f"{result.server.name}\n")
            measure(result, model, folder / str(number), options.rounds, options.seconds)
    context = environment(["ganglion", "onnxruntime", "uvloop"]) | {"rounds": options.rounds}
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document(results, context))).decode() + "\n")
    else:
        show(results, context)


if __name__ == "__main__":
    main()
