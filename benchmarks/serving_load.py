"""The generator of load: wrk, which is a C program (Debian's package `wrk`), with the share of a core that it took."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  io.write(string.format('{"requests":%d,"microseconds":%d,"refused":%d,"broken":%d,"p50":%f,"p99":%f}\\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class NoGeneratorError(Exception):
    """wrk is not installed, or it failed."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run of the generator found.

    Attributes:
        connections: kept open, each with one request in hand.
        rate: successful answers a second.
        p50: median latency in seconds.
        p99: 99th percentile of latency in seconds.
        failed: answers that were errors, and connections that broke.
        generator: cores that the generator itself used.
    """

    connections: int
    rate: float
    p50: float
    p99: float
    failed: int
    generator: float


def generate(url: str, body: Path, connections: int, seconds: int) -> Load:
    """Ask `url` for some seconds over so many connections.

    Args:
        url: what is asked, by POST.
        body: file with the JSON body.
        connections: requests in flight.
        seconds: for how long.

    Raises:
        NoGeneratorError: wrk is missing or failed.
    """
    program = shutil.which("wrk")
    if program is None:
        raise NoGeneratorError("wrk is not on this machine; Debian's package is called wrk.")
    script = body.with_name("post.lua")
    script.write_text(SCRIPT)
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"BODY": str(body)})
    after, ended = os.times(), time.perf_counter()
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise NoGeneratorError(f"wrk failed: {done.stderr or done.stdout}")
    found = json.loads(lines[-1])
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(
        connections=connections,
        rate=(found["requests"] - found["refused"]) / found["microseconds"] * 1e6,
        p50=found["p50"] / 1e6,
        p99=found["p99"] / 1e6,
        failed=found["refused"] + found["broken"],
        generator=used / (ended - began),
    )
