"""Serving beside floors and peers: `python -m benchmarks.serving [--json] [--rounds N] [--seconds S] [--no-peers]`.

Requests a second with 1, 8 and 32 connections, one image of 784 integers in each JSON body, for the reference network
and a 784-float MLP. In every round each server is started, asked and ended, one after the other; the ratio that counts
is the worst of all rounds. The generator takes part of the same cores; its share is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.data.peers.environments import NotInstallableError
from benchmarks.harness import environment
from benchmarks.serving_load import Load, generate
from benchmarks.serving_models import BenchModel, make_models
from benchmarks.serving_processes import ended_in_order
from benchmarks.serving_servers import FLOORS, OURS, PEERS, RunningServer, Server, ServerFailedError

CONNECTIONS = (1, 8, 32)
SETTLING = 2.0
"""Seconds from the first answer until a server counts as idle."""

P50_TARGET = 1.3
"""Times the median latency of bare uvicorn that ours may have at one connection."""


@dataclass
class Result:
    """What one server did with one model.

    Attributes:
        loads: by number of connections, one for each round.
        cold_start: seconds to the first answer, by round.
        idle: bytes before the load, by round.
        memory: bytes after it, by round.
        problem: why it could not be measured.
    """

    server: Server
    model: str
    loads: dict[int, list[Load]] = field(default_factory=dict)
    cold_start: list[float] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    problem: str = ""

    def rate(self, connections: int) -> float:
        """Median requests a second."""
        return statistics.median(load.rate for load in self.loads[connections])

    def p50(self, connections: int) -> float:
        """Median of the rounds' median latencies, in seconds."""
        return statistics.median(load.p50 for load in self.loads[connections])


def run(models: Sequence[BenchModel], servers: Sequence[Server], rounds: int, seconds: int) -> list[Result]:
    """Measure every server with every model, round after round."""
    results = [Result(server, model.name) for model in models for server in servers]
    with tempfile.TemporaryDirectory(prefix="ganglion-serving-") as temporary:
        for round_ in range(rounds):
            for model in models:
                for result in results:
                    if result.model == model.name and not result.problem:
                        folder = Path(
                            temporary, f"{round_}-{model.name}-{result.server.program}-{result.server.workers}"
                        )
                        _measure(result, model, folder, seconds)
    return results


def _measure(result: Result, model: BenchModel, folder: Path, seconds: int) -> None:
    sys.stderr.write(f"{model.name}: {result.server.name}\n")
    try:
        with RunningServer(result.server, model, folder) as running:
            result.cold_start.append(running.cold_start)
            time.sleep(SETTLING)
            result.idle.append(running.memory)
            generate(running.url, running.body, CONNECTIONS[-1], 1)  # warm
            for connections in CONNECTIONS:
                load = generate(running.url, running.body, connections, seconds)
                result.loads.setdefault(connections, []).append(load)
            result.memory.append(running.memory)
    except (ServerFailedError, NotInstallableError) as error:
        result.problem = str(error)


def worst(ours: Result, other: Result, connections: int) -> float:
    """The smallest ratio of our rate to another's in one round."""
    pairs = zip(ours.loads[connections], other.loads[connections], strict=False)
    return min(mine.rate / theirs.rate for mine, theirs in pairs)


def slowest(ours: Result, other: Result) -> float:
    """The largest ratio of our median latency to another's at one connection in one round."""
    return max(mine.p50 / theirs.p50 for mine, theirs in zip(ours.loads[1], other.loads[1], strict=False))


def document(results: Sequence[Result], context: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    rows = []
    for result in results:
        best, pair = _best(results, result.model), _pair(results, result.model)
        row: dict[str, Any] = {"server": result.server.name, "model": result.model, "problem": result.problem}
        if result.loads and not result.problem:
            row |= {
                "loads": {count: [asdict(load) for load in loads] for count, loads in result.loads.items()},
                "cold_start": result.cold_start,
                "idle": result.idle,
                "memory": result.memory,
                "target": result.server.target,
                "worst_ratio": {count: worst(best, result, count) for count in CONNECTIONS},
                "worst_ratio_pair": {count: worst(pair, result, count) for count in CONNECTIONS},
                "worst_p50_ratio": slowest(best, result),
                "worst_p50_ratio_fused": slowest(_fused(results, result.model), result),
            }
        rows.append(row)
    return {"benchmark": "serving", "environment": context, "rows": rows}


def _best(results: Sequence[Result], model: str) -> Result:
    """Ours as it is by default: with one replica."""
    return next(result for result in results if result.model == model and result.server == OURS[0])


def _fused(results: Sequence[Result], model: str) -> Result:
    """Ours where the gateway holds the model as well."""
    return next(result for result in results if result.model == model and result.server == OURS[1])


def _pair(results: Sequence[Result], model: str) -> Result:
    """Ours with as many gateways as cores, which hold the model."""
    return next(result for result in results if result.model == model and result.server == OURS[2])


def show(results: Sequence[Result], context: dict[str, Any]) -> None:
    """Tables for a person."""
    console = Console(width=max(Console().width, 170))
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    for model in dict.fromkeys(result.model for result in results):
        table = Table("server", title=f"{model}: requests a second, one image of 784 integers each")
        for count in CONNECTIONS:
            table.add_column(f"{count} conn.", justify="right")
        for heading in ("p50 at 1", "p99 at 32", "failed", "wrk's cores", "first answer", "idle", "memory"):
            table.add_column(heading, justify="right")
        table.add_column("ours / it, worst at 8, 32: by default; 2 gateways, fused")
        for result in results:
            if result.model == model:
                ours = _best(results, model), _fused(results, model), _pair(results, model)
                table.add_row(*_cells(result, *ours))
        console.print(table)


def _cells(result: Result, ours: Result, fused: Result, pair: Result) -> list[str]:
    if result.problem or not result.loads:
        return [result.server.name, *[""] * 9, f"not measured: {result.problem}"]
    loads = [load for several in result.loads.values() for load in several]
    generators = [f"{statistics.median(load.generator for load in result.loads[count]):.2f}" for count in CONNECTIONS]
    ratios = "; ".join(
        ", ".join(f"{worst(one, result, count):.2f}x" for count in CONNECTIONS[1:]) for one in (ours, pair)
    )
    if result.server.target is not None:
        ratios += f" (target {result.server.target:g}x)"
    if result.server == FLOORS[0]:
        ratios += f"; p50 at 1: {slowest(ours, result):.2f}x, fused {slowest(fused, result):.2f}x"
        ratios += f" (target at most {P50_TARGET}x)"
    return [
        result.server.name,
        *(f"{result.rate(count):,.0f}" for count in CONNECTIONS),
        f"{1e6 * result.p50(1):.0f} us",
        f"{1e3 * statistics.median(load.p99 for load in result.loads[32]):.1f} ms",
        str(sum(load.failed for load in loads)),
        " ".join(generators),
        f"{statistics.median(result.cold_start):.1f} s",
        f"{statistics.median(result.idle) / 1e6:.0f} MB",
        f"{statistics.median(result.memory) / 1e6:.0f} MB",
        "" if result is ours else ratios,
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is started and asked")
    parser.add_argument("--seconds", type=int, default=5, help="of load for each number of connections")
    parser.add_argument("--no-peers", action="store_true", help="only ours and the floors")
    parser.add_argument("--model", choices=("cnn", "mlp"), help="one model only")
    parser.add_argument("--server", action="append", default=[], help="only servers whose name begins so, and ours")
    options = parser.parse_args(arguments)
    servers = [*OURS, *FLOORS, *([] if options.no_peers else PEERS)]
    if options.server:
        servers = [
            server
            for server in servers
            if server in OURS[:3] or any(server.name.startswith(name) for name in options.server)
        ]
    with ended_in_order(), tempfile.TemporaryDirectory(prefix="ganglion-models-") as folder:
        models = [model for name, model in make_models(Path(folder)).items() if options.model in (None, name)]
        results = run(models, servers, options.rounds, options.seconds)
    context = environment(["ganglion", "onnxruntime", "uvloop", "numpy"]) | {"rounds": options.rounds}
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document(results, context))).decode() + "\n")
    else:
        show(results, context)


if __name__ == "__main__":
    main()
