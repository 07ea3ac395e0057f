"""Load whose every answer is checked: `python -m benchmarks.serving_chaos_load`, a process of its own, JSON out.

The model that is asked adds `version * STEP` to a number. Each request asks about a number of its own, so an answer
says by itself which request it answers and by which version.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import re
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import uvloop

STEP = 2**20
"""What a version adds to the number for each version before it; numbers are below it, and sums exact in float32."""

BEGUN = "begun\n"
"""What is written when the connections are there and the first request is sent."""

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_MOST_CONNECTIONS = 512
_PATIENCE = 30.0
_TICK = 0.002
"""Seconds between two looks at which requests are due."""


class Floor:
    """The version that answers at least, shared between the process that rolls out and the one that asks.

    Args:
        file: that both have.
    """

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._cell = memoryview(mmap.mmap(opened.fileno(), 8)).cast("Q")

    @property
    def version(self) -> int:
        """Every request that is sent from now on is answered by this version or a later one."""
        return int(self._cell[0])

    @version.setter
    def version(self, version: int) -> None:
        self._cell[0] = version


class _Connection(asyncio.Protocol):
    """One connection, one request in hand."""

    def __init__(self, load: OpenLoop) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.number: int | None = None
        self._floor = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's own class has no common base

    def ask(self, number: int, due: float) -> None:
        assert self._transport is not None
        self.number, self._due, self._floor = number, due, self._load.floor.version
        self._transport.write(self._load.request(number))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        if self.number is None:
            self._load.count("answer to nothing")
            return
        size = int(_LENGTH.search(head)[1])  # type: ignore[index]  # every answer has one
        if len(rest) < size:
            return
        self._buffer = rest[size:]
        number, self.number = self.number, None
        self._load.judge(number, int(head[9:12]), rest[:size], self._floor, self._due)
        if self._buffer:
            self._load.count("answered twice")
        self._load.free(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._load.lost(self)


class OpenLoop:
    """Asks at fixed moments, whatever becomes of what was asked before.

    Args:
        url: of the model's prediction, in the form of TensorFlow Serving or of the Open Inference Protocol.
        floor: which version answers at least.
        versioned: whether answers name their version (Open Inference) and versions change.
    """

    def __init__(self, url: str, floor: Floor, *, versioned: bool) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = parts.hostname, parts.port or 80
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
        ).encode()
        self._versioned = versioned
        self.floor = floor
        self.counts: Counter[str] = Counter()
        self.versions: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.asked = 0
        self.outstanding = 0
        self._free: list[_Connection] = []
        self._open = 0
        self._waiting: deque[tuple[int, float]] = deque()
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def request(self, number: int) -> bytes:
        """The bytes of a request about a number."""
        if self._versioned:
            body = b'{"id":"%d","inputs":[{"name":"image","datatype":"FP32","shape":[1,1],"data":[%d]}]}' % (
                number,
                number,
            )
        else:
            body = b'{"instances":[[%d]]}' % number
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    async def run(self, requests: int, rate: float, enough: threading.Event) -> float:
        """Ask so many times at so many a second, and on until it is enough; a rate of zero keeps 32 in hand.

        Returns:
            The seconds that it took.
        """
        self._begin_more(32)
        while len(self._free) < 32:
            await asyncio.sleep(0.01)
        sys.stdout.write(BEGUN)
        sys.stdout.flush()
        began = self._loop.time()
        if rate:
            while self.asked < requests or not enough.is_set():
                planned = 1 + int((self._loop.time() - began) * rate)
                for number in range(self.asked, min(planned, requests) if enough.is_set() else planned):
                    self._ask(number % STEP, began + number / rate)
                await asyncio.sleep(_TICK)
        else:
            for number in range(requests):
                while self.outstanding >= 32:
                    self._done.clear()
                    await self._done.wait()
                self._ask(number, self._loop.time())
        end = self._loop.time() + _PATIENCE
        while self.outstanding and self._loop.time() < end:
            self._done.clear()
            try:
                await asyncio.wait_for(self._done.wait(), 1.0)
            except TimeoutError:
                continue
        self._closing = True
        self.counts["no answer"] += self.outstanding
        return self._loop.time() - began

    def _ask(self, number: int, due: float) -> None:
        self.asked += 1
        self.outstanding += 1
        if self._free:
            self._free.pop().ask(number, due)
            return
        self._waiting.append((number, due))
        self._begin_more(1)

    def _begin_more(self, count: int) -> None:
        for _ in range(min(count, _MOST_CONNECTIONS - self._open)):
            self._open += 1
            task = self._loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        while True:
            try:
                _transport, connection = await self._loop.create_connection(lambda: _Connection(self), *self._address)
            except OSError:
                self.counts["connection refused"] += 1
                await asyncio.sleep(0.01)
                continue
            self.free(connection)
            return

    def free(self, connection: _Connection) -> None:
        """A connection can take a request."""
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection ended."""
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)
        if connection.number is not None and not self._closing:
            self._end("connection died")
        if not self._closing:
            self._begin_more(1)

    def count(self, what: str) -> None:
        """Something happened that ought not to."""
        self.counts[what] += 1

    def judge(self, number: int, status: int, body: bytes, floor: int, due: float) -> None:
        """An answer came."""
        self.latencies.append(self._loop.time() - due)
        self._end(self._verdict(number, status, body, floor))

    def _verdict(self, number: int, status: int, body: bytes, floor: int) -> str:
        if status != 200:
            return f"status {status}"
        answer = orjson.loads(body)
        if not self._versioned:
            value = np.ravel(answer["predictions"])[0]
            return "right" if value == number + STEP else "wrong value"
        version = int(answer["model_version"])
        self.versions[version] += 1
        if answer["id"] != str(number):
            return "answer to another request"
        if version < floor:
            return "version that was replaced before"
        return "right" if answer["outputs"][0]["data"] == [number + version * STEP] else "wrong value"

    def _end(self, what: str) -> None:
        self.counts[what] += 1
        self.outstanding -= 1
        self._done.set()


async def _open_loop(
    url: str, requests: int, rate: float, floor: Path, *, versioned: bool, enough: threading.Event
) -> dict[str, Any]:
    load = OpenLoop(url, Floor(floor), versioned=versioned)
    seconds = await load.run(requests, rate, enough)
    p50, p99 = (float(np.quantile(load.latencies, part)) for part in (0.5, 0.99)) if load.latencies else (0.0, 0.0)
    return {
        "requests": load.asked,
        "seconds": seconds,
        "counts": dict(load.counts),
        "versions": dict(sorted(load.versions.items())),
        "p50": p50,
        "p99": p99,
        "longest": max(load.latencies, default=0.0),
    }


def _hear_enough(enough: threading.Event) -> None:
    sys.stdin.read()
    enough.set()


def _with_client(url: str, seconds: float, threads: int, rate: float) -> dict[str, Any]:
    """Threads that ask so often a second, all together, by `ganglion.Client`, which tries again."""
    from ganglion import Client

    sys.stdout.write(BEGUN)
    sys.stdout.flush()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with Client(url) as client:

        def ask(first: int) -> None:
            number = first
            while (due := number / rate) < seconds:
                time.sleep(max(0.0, began + due - time.monotonic()))
                try:
                    right = client.predict("m", [[float(number)]]) in ([[float(number + STEP)]], [float(number + STEP)])
                    counts["right" if right else "wrong value"] += 1
                except Exception as error:  # noqa: BLE001  counted
                    counts[f"{type(error).__name__}: {error}"] += 1
                number += threads

        asking = [threading.Thread(target=ask, args=(first,)) for first in range(threads)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    return {"requests": sum(counts.values()), "seconds": seconds, "rate": rate, "counts": dict(counts)}


def main() -> None:
    """Ask, then write one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--floor", type=Path, required=True)
    parser.add_argument("--versioned", action="store_true")
    parser.add_argument("--client-seconds", type=float, default=0.0)
    parser.add_argument("--go-on", action="store_true", help="beyond that many requests, until standard input ends")
    chosen = parser.parse_args()
    if chosen.client_seconds:
        found = _with_client(chosen.url, chosen.client_seconds, 8, chosen.rate)
    else:
        enough = threading.Event()
        if chosen.go_on:
            threading.Thread(target=_hear_enough, args=(enough,), daemon=True).start()
        else:
            enough.set()
        found = uvloop.run(
            _open_loop(
                chosen.url, chosen.requests, chosen.rate, chosen.floor, versioned=chosen.versioned, enough=enough
            )
        )
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
