"""Requests in an open loop while replicas are killed and stopped, versions rolled out, and gateways killed.

Each answer is checked by the generator: it is right, came once, and is of a version that had not been replaced. The
schedule is that of `benchmarks/serving_chaos.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def chaos(*arguments: str, patience: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.serving_chaos", "--json", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_replicas(found: dict[str, Any]) -> None:
    assert (found["kills"], found["stops"], found["rollouts"]) == (20, 5, 10)
    assert found["failures"] == {}
    assert found["counts"]["right"] == found["requests"]
    assert found["versions"].keys() == {str(version) for version in range(1, 12)}, "not every version answered"


@pytest.mark.timeout(300)
def test_nothing_is_lost_while_replicas_die_and_versions_change() -> None:
    """At a smaller share of the peak than in the benchmark: other tests run beside it."""
    arguments = ("--scene", "replicas", "--requests", "100000", "--at-most", "16", "--share", "0.35")
    found = chaos(*arguments, patience=240)["replicas"]
    assert found["requests"] >= 5_000
    check_replicas(found)


@pytest.mark.soak
def test_nothing_of_a_million_is_lost() -> None:
    check_replicas(chaos("--scene", "replicas", "--requests", "1000000", patience=3600)["replicas"])


@pytest.mark.soak
def test_gateways_that_are_killed_cost_their_own_connections_and_our_client_nothing() -> None:
    found = chaos("--scene", "gateways", patience=400)["gateways"]
    assert found["kills"] == 12
    assert found["without retries"]["availability"] >= 0.999
    assert set(found["without retries"]["failures"]) <= {"connection died"}
    assert found["ganglion.Client"]["failures"] == {}
