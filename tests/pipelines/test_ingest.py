from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ganglion.data import open_dataset
from ganglion.platform import ExecutionConfig, Platform, PlatformConfig, Run

sys.path.insert(0, str(Path(__file__).parent))  # steps get this folder by their import path

from number_source import numbers


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    configuration = PlatformConfig(execution=ExecutionConfig(local={"cpu": 2.0}))
    with Platform(tmp_path_factory.mktemp("home"), configuration) as platform:
        yield platform


def metrics(run: Run) -> dict[str, float]:
    return {point.name: point.value for point in run.metrics(step="ingest")}


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 2}, {"workers": 2, "inline": True}])
def test_a_source_becomes_a_dataset(platform: Platform, options: dict[str, Any]) -> None:
    parameters = {"size": 3 + sum(map(ord, str(options))) % 50, "workers": options["workers"]}
    run = platform.run(numbers, parameters, inline=options.get("inline", False))
    data = run.value
    count = 100 * parameters["size"]
    dataset = open_dataset(data.dataset, platform.store)
    assert dataset.slice(0, count)["x"].tolist() == list(range(count))
    assert data.count == count
    assert data.split.sizes(count) == {"train": 3 * count // 4, "held_out": count // 4}
    assert metrics(run) == {"records": count, "bad_records": 0}
    again = platform.run(numbers, parameters)
    assert again.detail.steps[0].state == "cached"


def test_bad_records_are_set_aside_and_counted(platform: Platform) -> None:
    run = platform.run(numbers, {"bad": 50})
    assert run.value.count == 393
    assert metrics(run) == {"records": 393, "bad_records": 7}


@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_bad_records_fail_the_step_and_say_which(platform: Platform, workers: int) -> None:
    run = platform.run(numbers, {"bad": 50, "max_bad": 0.01, "workers": workers})
    assert run.state == "failed"
    assert "7 of 400 records are bad" in run.detail.steps[0].attempts[-1].message
    assert "7 x read: divisible" in str(run.detail)


def test_a_sample_is_taken_of_a_limited_run(platform: Platform) -> None:
    assert platform.run(numbers, {"size": 7}, limit=150).value.count == 150
