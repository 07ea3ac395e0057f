"""Replicas that follow the load, beside Ray Serve: `python -m benchmarks.serving_scaling [--json] [--rounds N]`.

Two scenes. Five requests to a network that takes tens of milliseconds are kept in flight for 30 s with a target of one
for each replica: how long until five replicas are ready, and until one is left after the end. A thousand requests to
the reference network, each on a connection of its own, come at once while there is no replica: how long until the first
and the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.data.peers.environments import NotInstallableError
from benchmarks.harness import environment
from benchmarks.serving_load import generate
from benchmarks.serving_models import BenchModel, make_deep, make_models
from benchmarks.serving_servers import PATIENCE, RAY_ENVIRONMENT, RunningServer, Server, ServerFailedError

FLIGHT = 5
SECONDS = 30
BURST = 1000

SERVERS = (
    ("Ganglion", "ganglion_elastic", None, "/v1/models/m:predict"),
    ("Ray Serve", "ray_elastic", RAY_ENVIRONMENT, "/m"),
)


class ReplicaLog:
    """When a server had how many replicas, as it wrote it.

    Args:
        folder: of the running server.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log"

    def seen(self) -> list[tuple[float, int]]:
        """Wall times and numbers, oldest first."""
        lines = [line for line in self._file.read_text(errors="replace").splitlines() if line.startswith('{"at"')]
        return [(found["at"], found["replicas"]) for found in map(json.loads, lines)]

    def wait(self, since: float, condition: Callable[[int], bool], patience: float = PATIENCE) -> float:
        """Seconds from `since`, a wall time, until there are so many; infinity if that is not soon enough."""
        while True:
            seen = self.seen()
            current = [count for at, count in seen if at <= since][-1:]
            if any(condition(count) for count in current):
                return 0.0
            later = next((at for at, count in seen if at > since and condition(count)), None)
            if later is not None:
                return later - since
            if time.time() - since > patience:
                return float("inf")
            time.sleep(0.05)


def flight(name: str, program: str, peer: Any, path: str, model: BenchModel, folder: Path) -> dict[str, Any]:
    """Five in flight for half a minute."""
    server = Server(name=name, program=program, workers=1, environment=peer, path=path)
    with RunningServer(server, model, folder) as running:
        log = ReplicaLog(folder)
        log.wait(time.time(), lambda count: count == 1)
        time.sleep(2.0)
        began = time.time()
        load = generate(running.url, running.body, FLIGHT, SECONDS)
        ended = time.time()
        after = log.wait(ended, lambda count: count == 1)
        up = log.wait(began, lambda count: count >= FLIGHT, patience=0.0)
        most = max((count for at, count in log.seen() if at >= began), default=1)
    return {"up": up, "down": after, "most": most, "failed": load.failed, "rate": load.rate}


def burst(name: str, program: str, peer: Any, path: str, model: BenchModel, folder: Path) -> dict[str, Any]:
    """A thousand at once, and one alone, at no replicas."""
    server = Server(name=name, program=program, workers=0, environment=peer, path=path)
    with RunningServer(server, model, folder) as running:
        log = ReplicaLog(folder)
        found: dict[str, Any] = {}
        for key, count in (("alone", 1), ("burst", BURST)):
            if log.wait(time.time(), lambda count: count == 0) == float("inf"):
                raise ServerFailedError("it keeps its last replica")
            time.sleep(1.0)
            found[key] = asyncio.run(_ask_at_once(running.url, running.body.read_bytes(), count))
        return found


async def _ask_at_once(url: str, body: bytes, count: int) -> dict[str, Any]:
    """Send `count` requests at once; seconds to the first and the last answer, and how many were right."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
    streams = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(count)]
    began = time.perf_counter()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[float, bool]:
        writer.write(request)
        try:
            status = await asyncio.wait_for(reader.readline(), PATIENCE)
            at = time.perf_counter() - began
            rest = await asyncio.wait_for(reader.read(), PATIENCE)
        except (OSError, TimeoutError):
            return float("inf"), False
        finally:
            writer.close()
        return at, status.startswith(b"HTTP/1.1 200") and b'"predictions"' in rest

    answers = await asyncio.gather(*(ask(*stream) for stream in streams))
    return {
        "first": min(at for at, right in answers if right) if any(right for _, right in answers) else float("inf"),
        "last": max(at for at, _right in answers),
        "answered": sum(right for _at, right in answers),
    }


SCENES: dict[str, Callable[..., dict[str, Any]]] = {"flight": flight, "burst": burst}


def run(models: dict[str, BenchModel], scenes: list[str], rounds: int, servers: Any) -> list[dict[str, Any]]:
    """Every scene with every server, round after round."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="ganglion-scaling-") as temporary:
        for round_ in range(rounds):
            for scene in scenes:
                for server in servers:
                    folder = Path(temporary, f"{round_}-{scene}-{server[1]}")
                    sys.stderr.write(f"{scene}: {server[0]}\n")
                    row: dict[str, Any] = {"scene": scene, "server": server[0]}
                    try:
                        row |= SCENES[scene](*server, models[scene], folder)
                    except (ServerFailedError, NotInstallableError) as error:
                        row["problem"] = str(error)
                    rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], context: dict[str, Any]) -> None:
    """Tables for a person: medians over rounds."""
    console = Console(width=max(Console().width, 140))
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    flights = Table(title=f"{FLIGHT} requests in flight for {SECONDS} s, one for each replica")
    bursts = Table(title=f"{BURST:,} requests at once at no replicas")
    for heading in ("server", "five ready", "most", "one left, after the end", "failed", "requests/s"):
        flights.add_column(heading)
    for heading in ("server", "first answer", "last answer", "answered", "one alone"):
        bursts.add_column(heading)
    for scene, table in (("flight", flights), ("burst", bursts)):
        for name in dict.fromkeys(row["server"] for row in rows if row["scene"] == scene):
            several = [row for row in rows if (row["scene"], row["server"]) == (scene, name)]
            whole = [row for row in several if "problem" not in row]
            if not whole:
                table.add_row(name, f"not measured: {several[0]['problem']}")
            elif scene == "flight":
                table.add_row(
                    name,
                    f"{_median(whole, 'up'):.1f} s",
                    str(max(row["most"] for row in whole)),
                    f"{_median(whole, 'down'):.1f} s",
                    str(sum(row["failed"] for row in whole)),
                    f"{_median(whole, 'rate'):,.0f}",
                )
            else:
                fired = [row["burst"] for row in whole]
                table.add_row(
                    name,
                    f"{_median(fired, 'first'):.3f} s",
                    f"{_median(fired, 'last'):.3f} s",
                    f"{min(row['answered'] for row in fired)} at least",
                    f"{_median([row['alone'] for row in whole], 'first'):.3f} s",
                )
        if table.row_count:
            console.print(table)


def _median(rows: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(row[key] for row in rows))


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_scaling", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--rounds", type=int, default=3, help="how often each scene is played with each server")
    parser.add_argument("--scene", choices=tuple(SCENES), action="append", help="one scene only")
    parser.add_argument("--no-peers", action="store_true", help="only ours")
    options = parser.parse_args(arguments)
    servers = SERVERS[:1] if options.no_peers else SERVERS
    with tempfile.TemporaryDirectory(prefix="ganglion-models-") as folder:
        models = {"flight": make_deep(Path(folder)), "burst": make_models(Path(folder))["cnn"]}
        rows = run(models, options.scene or list(SCENES), options.rounds, servers)
    context = environment(["ganglion", "onnxruntime", "uvloop", "numpy"]) | {"rounds": options.rounds}
    if options.json:
        document = {"benchmark": "serving_scaling", "environment": context, "rows": rows}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
    else:
        show(rows, context)


if __name__ == "__main__":
    main()
