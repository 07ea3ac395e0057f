"""One of three replicas is ten times slower: `python -m benchmarks.serving_slow_replica [--json] [--rounds N]`.

The 99th percentile of latency under open load, by late binding and by each other policy on the same replicas. They wait
in place of computing. The lower rate leaves the slow one below its capacity by round robin too.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from benchmarks.serving_open_loop import Outcome, Plan, run
from benchmarks.serving_processes import end, ended_in_order, start

ROOT = Path(__file__).resolve().parents[1]
POLICIES = ("late-binding", "round-robin", "least-outstanding", "consistent-hash", "power-of-two")
RATES = (40.0, 200.0)
"""Requests a second; a fast replica answers 200 a second one by one, the slow one 20."""

TARGET = 0.2
"""Share of round robin's 99th percentile that late binding's may be."""

_PATIENCE = 30.0
_DEADLINE = 1.0


@contextmanager
def serving(policy: str) -> Iterator[str]:
    """The gateway with its replicas; yields the address to ask."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (sys.executable, "-m", "benchmarks.serving_peers.ganglion_uneven", str(port), policy)
    process = start(command, environment=os.environ | {"PYTHONPATH": _path()}, folder=ROOT)
    url = f"http://127.0.0.1:{port}/v1/models/m:predict"
    try:
        until = time.monotonic() + _PATIENCE
        while not _answers(url):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError(f"The gateway with the policy {policy} gave no answer.")
            time.sleep(0.05)
        yield url
    finally:
        end(process)


def _path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


def _answers(url: str) -> bool:
    request = urllib.request.Request(url, b'{"instances":[[1,0]]}', method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def measure(policies: Sequence[str], rounds: int, seconds: float) -> dict[tuple[str, float], list[Outcome]]:
    """Ask by every policy at every rate, round after round."""
    found: dict[tuple[str, float], list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="ganglion-slow-") as folder:
        body = Path(folder, "body.json")
        body.write_bytes(b'{"instances":[[1,0]]}')
        for round_ in range(rounds):
            for policy in policies:
                with serving(policy) as url:
                    for rate in RATES:
                        plan = Plan(url=url, body=str(body), rate=rate, seconds=seconds, deadline=_DEADLINE, tell=False)
                        run(replace(plan, seconds=2.0, seed=rounds))  # how fast each of them is has to be learnt
                        found.setdefault((policy, rate), []).append(run(replace(plan, seed=round_)))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_slow_replica", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rounds", type=int, default=3, help="how often each policy is started and asked")
    parser.add_argument("--policy", action="append", default=[], help="only this and round robin")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load for each rate")
    options = parser.parse_args(arguments)
    with ended_in_order():
        chosen = [policy for policy in POLICIES if not options.policy or policy in (*options.policy, "round-robin")]
        found = measure(chosen, options.rounds, options.seconds)
    context = environment(["ganglion", "uvloop"]) | {"rounds": options.rounds}
    rows = []
    for (policy, rate), outcomes in found.items():
        p99 = statistics.median(outcome.p99 for outcome in outcomes)
        robin = statistics.median(outcome.p99 for outcome in found["round-robin", rate])
        lost = sum(outcome.late + outcome.given_up + outcome.refused + outcome.broken for outcome in outcomes)
        rows.append({"policy": policy, "rate": rate, "p99": p99, "of_round_robin": p99 / robin, "lost": lost,
                     "outcomes": [asdict(outcome) for outcome in outcomes]})  # fmt: skip
    if options.json:
        document: dict[str, Any] = {"benchmark": "serving_slow_replica", "environment": context, "rows": rows}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
        return
    console = Console(width=max(Console().width, 120))
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    table = Table("policy", title="One of three replicas is ten times slower (5 ms, 5 ms, 50 ms a batch)")
    for heading in ("a second", "p99", "of round robin's", "not answered within 1 s", "generator's cores"):
        table.add_column(heading, justify="right")
    for row in rows:
        note = f" (target {TARGET:g})" if row["policy"] == "late-binding" else ""
        generator = statistics.median(outcome["generator"] for outcome in row["outcomes"])
        table.add_row(row["policy"], f"{row['rate']:g}", f"{1e3 * row['p99']:.1f} ms",
                      f"{row['of_round_robin']:.2f}{note}", str(row["lost"]), f"{generator:.2f}")  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
