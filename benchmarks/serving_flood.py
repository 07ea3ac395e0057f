"""Callers with a key while others flood the gateway: `python -m benchmarks.serving_flood [--json] [--rounds N]`.

Callers with a key ask at a steady rate, first alone, then while callers without one ask several times as often as they
may, and are refused. What counts is the 99th percentile of latency with the flood over that without, round by round.
The flood's own generator takes part of the same cores; its share is printed, and so is what the same flood costs when
it goes to another process, which refuses everything and knows nothing else: the part that no gateway could avoid.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

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

_REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Round:
    """Three loads after each other; the last two beside a flood.

    Attributes:
        alone: callers with a key.
        apart: they, while the flood goes to another process.
        beside: they, while the flood goes to the same gateway.
        flood: what became of that.
    """

    alone: Outcome
    apart: Outcome
    beside: Outcome
    flood: Outcome


class _Refuser(asyncio.Protocol):
    """Answers every piece that arrives with a refusal; the generator sends each request in one, and waits."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_REFUSAL)


def _refuse_all(pipe: Connection) -> None:
    """In a process of its own: say at which port, and refuse until the process is ended."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Refuser, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(serve())


def measure(folder: Path, rounds: int, seconds: float) -> list[Round]:
    """Rounds of callers with a key."""
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
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    refuser = context.Process(target=_refuse_all, args=(theirs,), daemon=True)
    found = []
    try:
        refuser.start()
        elsewhere = f"http://127.0.0.1:{ours.recv()}/"
        server.deploy("cnn", replicas=1, resources=_SMALL)
        server.limit(callers)
        url = f"{server.url}/v1/models/cnn:predict"
        known = (("authorization", f"Bearer {key}"),)
        for round_ in range(rounds):
            plan = Plan(
                url=url, body=str(body), rate=RATE, seconds=seconds, deadline=_DEADLINE, tell=False, seed=round_,
                headers=known,
            )  # fmt: skip

            def flood(target: str, round_: int = round_) -> Plan:
                return Plan(url=target, body=str(body), rate=FLOOD, seconds=seconds, deadline=_DEADLINE, tell=False,
                            seed=100 + round_)  # fmt: skip

            alone = run(plan)
            with ThreadPoolExecutor(1) as beside:
                there = beside.submit(run, flood(elsewhere))
                apart = run(plan)
                there.result()
                here = beside.submit(run, flood(url))
                found.append(Round(alone=alone, apart=apart, beside=run(plan), flood=here.result()))
    finally:
        server.close()
        supervisor.close()
        refuser.terminate()
        refuser.join()
    return found


def summary(found: Sequence[Round]) -> dict[str, Any]:
    """What a person wants to know."""
    median = statistics.median
    return {
        "ratio": median(one.beside.p99 / one.alone.p99 for one in found),
        "target": TARGET,
        "ratio_apart": median(one.apart.p99 / one.alone.p99 for one in found),
        "p99_alone": median(one.alone.p99 for one in found),
        "p99_apart": median(one.apart.p99 for one in found),
        "p99_beside": median(one.beside.p99 for one in found),
        "lost": sum(
            load.refused + load.broken + load.late + load.given_up
            for one in found
            for load in (one.alone, one.apart, one.beside)
        ),
        "flood_refused": sum(one.flood.refused for one in found) / sum(one.flood.asked for one in found),
        "flood_generator": median(one.flood.generator for one in found),
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
        document["outcomes"] = [asdict(one) for one in found]
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")


if __name__ == "__main__":
    main()
