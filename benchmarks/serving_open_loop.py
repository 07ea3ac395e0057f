"""A generator of open load, in a process of its own: `python -m benchmarks.serving_open_loop` with a plan on its input.

Requests come at moments that are drawn before it begins (Poisson arrivals) whatever becomes of earlier ones, and the
time of an answer counts from its planned moment: a server that stalls is charged with everything that came meanwhile
(no coordinated omission). Connections are kept alive; one more is opened when all of them wait for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

_ROOT = str(Path(__file__).resolve().parents[1])
_READY = 64
"""Connections that are opened before the first request."""

_PATIENCE = 1.0
"""Seconds after which an answer is waited for no longer."""

_TICK = 0.001
"""Seconds between two looks at what is due, at least: who asks on every beat of a timer needs little of the cores."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        url: asked by POST.
        body: file with the JSON body.
        rate: requests a second.
        seconds: for how long.
        deadline: seconds that an answer may take from the planned moment.
        tell: whether the server is told, with each request, how many milliseconds of them are left.
        seed: of the arrivals.
        headers: further header fields.
    """

    url: str
    body: str
    rate: float
    seconds: float
    deadline: float
    tell: bool = True
    seed: int = 0
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the requests.

    Attributes:
        asked: requests.
        on_time: answered well and within the deadline.
        late: answered after it, well or not, or not within a second.
        given_up: told within the deadline that there will be no answer (504), when the server had them in hand already.
        refused: answered with 429 or 503 within the deadline.
        broken: answered otherwise, or the connection ended.
        p50: median seconds of good answers from their planned moment.
        p99: 99th percentile of these.
        refusal_p99: 99th percentile of seconds to a refusal.
        seconds: that it took.
        generator: cores that the generator itself used.
        slip: 99th percentile of seconds by which requests were sent after their planned moment.
    """

    asked: int
    on_time: int
    late: int
    given_up: int
    refused: int
    broken: int
    p50: float
    p99: float
    refusal_p99: float
    seconds: float
    generator: float
    slip: float

    @property
    def goodput(self) -> float:
        """Good answers in time, a second."""
        return self.on_time / self.seconds

    @property
    def late_share(self) -> float:
        """Share of late ones among good answers."""
        return self.late / max(1, self.late + self.on_time)


def run(plan: Plan) -> Outcome:
    """Carry a plan out in another process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving_open_loop"],
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH", ""))))},
        timeout=plan.seconds + 60.0,
    )
    if done.returncode:
        raise RuntimeError(f"The generator failed: {done.stderr.strip()}")
    return Outcome(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    """One request in hand at a time."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._planned = 0.0
        self._head = b""
        self._missing = 0
        self._status = b""
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, planned: float) -> None:
        assert self._transport is not None
        self.busy = True
        self._planned = planned
        self._head, self._status = b"", b""
        self._generator.waiting[self] = planned
        self._transport.write(self._generator.request(planned))

    def give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._status = self._head[9:12]
            lowered = self._head[:end].lower()
            start = lowered.index(b"content-length:") + 15
            self._missing = end + 4 + int(lowered[start:].split(b"\r\n", 1)[0]) - len(self._head)
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self.busy = False
            self._generator.answered(self, self._planned, self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._generator.lost(self)


class _Generator:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        target = urlsplit(plan.url)
        self._address = (target.hostname or "", target.port or 80)
        body = Path(plan.body).read_bytes()
        fields = [("host", f"{target.hostname}:{target.port}"), ("content-type", "application/json"), *plan.headers]
        fields.append(("content-length", str(len(body))))
        head = f"POST {target.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
        told = [f"x-request-timeout-ms: {left}\r\n" for left in range(1, round(1000 * plan.deadline) + 1)]
        self._requests = [f"{head}{one}\r\n".encode() + body for one in (told if plan.tell else [""])]
        draw = random.Random(plan.seed)
        self._moments: list[float] = []
        moment = 0.0
        while (moment := moment + draw.expovariate(plan.rate)) < plan.seconds:
            self._moments.append(moment)
        self._idle: list[_Connection] = []
        self.waiting: dict[_Connection, float] = {}
        self._good: list[float] = []
        self._refusals: list[float] = []
        self._slips: list[float] = []
        self._broken = 0
        self._late = 0
        self._given_up = 0

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        for _ in range(_READY):
            _transport, connection = await loop.create_connection(lambda: _Connection(self), *self._address)
            self._idle.append(connection)
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic() + 0.05
        opening: set[asyncio.Task[None]] = set()
        for moment in self._moments:
            planned = began + moment
            while (left := planned - time.monotonic()) > 0.0:
                await asyncio.sleep(max(left, _TICK))
            self._slips.append(time.monotonic() - planned)
            if self._idle:
                self._idle.pop().ask(planned)
            else:
                task = loop.create_task(self._ask_anew(planned))
                opening.add(task)
                task.add_done_callback(opening.discard)
            self._give_up(planned)
        while (self.waiting or opening) and time.monotonic() < began + self._plan.seconds + _PATIENCE:
            await asyncio.sleep(0.005)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self._late += len(self.waiting) + len(opening)
        good = sum(seconds <= self._plan.deadline for seconds in self._good)
        return Outcome(
            asked=len(self._moments),
            on_time=good,
            late=len(self._good) - good + self._late,
            given_up=self._given_up,
            refused=len(self._refusals),
            broken=self._broken,
            p50=_percentile(self._good, 0.5),
            p99=_percentile(self._good, 0.99),
            refusal_p99=_percentile(self._refusals, 0.99),
            seconds=self._plan.seconds,
            generator=used / (time.monotonic() - began),
            slip=_percentile(self._slips, 0.99),
        )

    def request(self, planned: float) -> bytes:
        """What is sent now for a request of this moment."""
        left = self._plan.deadline - (time.monotonic() - planned)
        return self._requests[min(max(int(1000 * left), 1), len(self._requests)) - 1]

    async def _ask_anew(self, planned: float) -> None:
        try:
            _transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), *self._address
            )
        except OSError:
            self._broken += 1
            return
        connection.ask(planned)

    def _give_up(self, now: float) -> None:
        """Waits for nothing that is a second old."""
        while self.waiting:
            connection, planned = next(iter(self.waiting.items()))
            if now - planned < _PATIENCE:
                return
            del self.waiting[connection]
            self._late += 1
            connection.give_up()

    def answered(self, connection: _Connection, planned: float, status: bytes) -> None:
        if self.waiting.pop(connection, None) is None:
            return
        seconds = time.monotonic() - planned
        self._idle.append(connection)
        if status == b"200":
            self._good.append(seconds)
        elif status not in (b"429", b"503", b"504"):
            self._broken += 1
        elif seconds > self._plan.deadline:
            self._late += 1
        elif status == b"504":
            self._given_up += 1
        else:
            self._refusals.append(seconds)

    def lost(self, connection: _Connection) -> None:
        if self.waiting.pop(connection, None) is not None:
            self._broken += 1
        elif connection in self._idle:
            self._idle.remove(connection)


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _go_first() -> None:
    """Be let onto a core at once, as far as this is allowed: it stands for callers on machines of their own.

    A process that is merely nice to nobody still waits for milliseconds behind servers that compute, and would charge
    them with that.
    """
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    with contextlib.suppress(PermissionError, AttributeError):  # only Linux has it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    """Carry out the plan on the standard input."""
    _go_first()
    outcome = uvloop.run(_Generator(Plan(**json.load(sys.stdin))).run())
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
