from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from ganglion.artifacts.store import FolderStore
from ganglion.data import ArraySource, Loader, frame_source, prepare
from ganglion.data.dataset.prepared import PreparedDataset

HERE = Path(__file__).parent
COUNT, SHAPE = 50_000, (48, 48)  # 110 MiB


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("large")
    images = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), np.uint8)
    return prepare(ArraySource({"image": images}), FolderStore(folder), segment_bytes=40 * 2**20)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> PreparedDataset:
    """Records of any length, 90 MiB of them."""
    random = np.random.default_rng(0)
    noise = random.bytes(2**20)
    sizes = random.integers(0, 6000, 30_000)
    table = pa.table(
        {
            "payload": pa.array([noise[size : 2 * size] for size in sizes.tolist()], pa.binary()),
            "name": [f"record {number}" for number in range(len(sizes))],
            "tokens": pa.array([np.arange(size % 50, dtype=np.int32) for size in sizes], pa.list_(pa.int32())),
            "number": np.arange(len(sizes)),
        }
    )
    folder = tmp_path_factory.mktemp("mixed")
    return prepare(frame_source(table), FolderStore(folder), segment_bytes=30 * 2**20)


def grown(dataset: PreparedDataset, *, arrow: bool = False, **options) -> int:
    """By how many bytes a process, and those that it starts, grow beyond their imports while it loads an epoch."""
    options["arrow"] = arrow
    three = frame_source(pa.table({"name": ["a", "b", "c"]})) if arrow else ArraySource({"image": np.ones((3, 2, 2))})
    small = prepare(three, dataset.store)
    places = [
        text
        for each in (small, dataset)
        for text in (str(each.store.root), json.dumps(msgspec.to_builtins(each.artifact)))
    ]
    command = [sys.executable, str(HERE / "memory_process.py"), *places, json.dumps(options)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert found["records"] == dataset.count
    return found["growth"]


@pytest.mark.parametrize("budget", [32 * 2**20, 64 * 2**20])
def test_memory_grows_by_the_budget_at_most(large, budget: int) -> None:
    """The dataset alone is larger than the budget, and is mapped."""
    assert grown(large, global_batch=100, memory=budget, parallel=2) <= 1.1 * budget


def test_memory_of_worker_processes_is_within_the_budget_too(large) -> None:
    """Of all of them together, with what a transform in Python takes; shared pages count once."""
    budget = 64 * 2**20
    assert grown(large, global_batch=100, memory=budget, workers="processes", parallel=2) <= 1.1 * budget


def test_so_is_that_of_processes_that_send_records_of_any_length(mixed) -> None:
    budget = 192 * 2**20  # so that files are mapped, as those are of which imports are known
    options = {"global_batch": 50, "memory": budget, "workers": "processes", "parallel": 2}
    assert mixed.artifact.size / 2 < grown(mixed, arrow=True, **options) <= 1.1 * budget


def test_without_a_budget_to_speak_of_the_test_would_fail(large) -> None:
    assert grown(large, global_batch=100, memory=2**30, parallel=2) > 1.1 * 64 * 2**20


def test_records_of_any_length_are_within_the_budget_too(mixed) -> None:
    budget = 32 * 2**20
    assert grown(mixed, arrow=True, global_batch=50, memory=budget, parallel=2) <= 1.1 * budget


def test_records_that_are_read_are_the_same_as_those_that_are_mapped(mixed) -> None:
    mapped, read = (Loader(mixed, global_batch=100, memory=memory) for memory in (2**30, 2**24))
    assert (mapped._memory.resident, read._memory.resident) == (None, 2**23)
    for one, other in zip(islice(mapped, 60), islice(read, 60), strict=True):
        assert list(one.columns) == list(other.columns)
        for name, column in one.columns.items():
            if isinstance(column, np.ndarray):
                assert (column == other.columns[name]).all()
            else:
                assert column.equals(other.columns[name])
