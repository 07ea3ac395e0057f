from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ganglion.artifacts.store import FolderStore
from ganglion.data import ArraySource, prepare
from ganglion.data.prepared import PreparedDataset

HERE = Path(__file__).parent
COUNT, SHAPE = 50_000, (48, 48)  # 110 MiB


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("large")
    images = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), np.uint8)
    return prepare(ArraySource({"image": images}), FolderStore(folder), segment_bytes=40 * 2**20)


def grown(dataset: PreparedDataset, **options) -> int:
    """By how many bytes a process grows beyond its imports while it loads an epoch."""
    artifact = json.dumps(msgspec.to_builtins(dataset.artifact))
    command = [sys.executable, str(HERE / "memory_process.py"), str(dataset.store.root), artifact, json.dumps(options)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert found["records"] == dataset.count
    return found["growth"]


@pytest.mark.parametrize("budget", [32 * 2**20, 64 * 2**20])
def test_memory_grows_by_the_budget_at_most(large, budget: int) -> None:
    """The dataset alone is larger than the budget, and is mapped."""
    assert grown(large, global_batch=100, memory=budget, parallel=2) <= 1.1 * budget


def test_without_a_budget_to_speak_of_the_test_would_fail(large) -> None:
    assert grown(large, global_batch=100, memory=2**30, parallel=2) > 1.1 * 64 * 2**20
