"""Callers with a key while others flood the gateway: `python -m benchmarks.serving_flood [--json] [--rounds N]`.

Callers with a key ask at a steady rate, first alone, then while callers without one ask several times as often as they
may, and are refused. What counts is the 99th percentile of latency with the flood over that without, round by round.
The flood's own generator takes part of the same cores; its share is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import environment
from benchmarks.serving_models import make_models
from benchmarks.serving_open_loop import Outcome, Plan, run
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.execution.supervisor import Supervisor
from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository

RATE, FLOOD = 500.0, 2000.0
"""Requests a second of callers with a key, and of those without."""

ALLOWED = CallerLimit(rate=20.0, burst=10)
"""What callers without a key may ask for."""

TARGET = 1.2
"""Times the 99th percentile without the flood, at most."""

_DEADLINE = 1.0
_SMALL = Resources(cpu=0.1)


def measure(folder: Path, rounds: int, seconds: float) -> list[tuple[Outcome, Outcome, Outcome]]:
    """In each round: callers with a key alone, then beside the flood, and the flood."""
    model = make_models(folder)["cnn"]
    body = folder / "body.json"
    body.write_bytes(model.rows())
    repository = ModelRepository(folder / "models")
    repository.publish("cnn", model.package)
    key = new_key()
    unlimited = CallerLimit(waiting=10_000)
    callers = Callers(anonymous=ALLOWED, keys=(ApiKey(name="known", digest=digest_of(key), limit=unlimited),))
    supervisor = Supervisor(LocalBackend(folder / "g", LocalConfig(cpu=8)), folder / "g")
    server = ModelServer(supervisor, repository, gateway=_SMALL)
    found = []
    try:
        server.deploy("cnn", replicas=1, resources=_SMALL)
        server.limit(callers)
        url = f"{server.url}/v1/models/cnn:predict"
        known = (("authorization", f"Bearer {key}"),)
        for round_ in range(rounds):
            plan = Plan(
                url=url, body=str(body), rate=RATE, seconds=seconds, deadline=_DEADLINE, tell=False, seed=round_,
                headers=known,
            )  # fmt: skip
            flood = Plan(
                url=url, body=str(body), rate=FLOOD, seconds=seconds, deadline=_DEADLINE, tell=False, seed=100 + round_
            )
            alone = run(plan)
            with ThreadPoolExecutor(1) as beside:
                flooding = beside.submit(run, flood)
                found.append((alone, run(plan), flooding.result()))
    finally:
        server.close()
        supervisor.close()
    return found


def summary(found: Sequence[tuple[Outcome, Outcome, Outcome]]) -> dict[str, Any]:
    """What a person wants to know."""
    return {
        "ratio": statistics.median(beside.p99 / alone.p99 for alone, beside, _flood in found),
        "target": TARGET,
        "p99_alone": statistics.median(alone.p99 for alone, _beside, _flood in found),
        "p99_beside": statistics.median(beside.p99 for _alone, beside, _flood in found),
        "lost": sum(one.refused + one.broken + one.late for pair in found for one in pair[:2]),
        "flood_refused": sum(flood.refused for _alone, _beside, flood in found)
        / sum(flood.asked for _alone, _beside, flood in found),
        "flood_generator": statistics.median(flood.generator for _alone, _beside, flood in found),
    }


def main() -> None:
    """Measure and write what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line, with every outcome")
    parser.add_argument("--rounds", type=int, default=5, help="how often both are measured")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ganglion-flood-") as folder:
        found = measure(Path(folder), options.rounds, options.seconds)
    document = {"environment": environment(["ganglion", "uvloop"]), **summary(found)}
    if options.json:
        document["outcomes"] = [[asdict(one) for one in three] for three in found]
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")


if __name__ == "__main__":
    main()
