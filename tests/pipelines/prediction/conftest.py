from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules that the tests here share

from doubling import Doubling

from ganglion.data import PlainSource


@pytest.fixture
def doubling(tmp_path: Path) -> Doubling:
    return Doubling(tmp_path / "doubling")


@pytest.fixture
def source(doubling: Doubling) -> PlainSource:
    """Ten files of 20 records each; each file is a piece. A line of the fourth cannot be read."""
    return doubling.write_source()


@pytest.fixture
def computed(doubling: Doubling) -> Callable[[], Counter[int]]:
    return doubling.computed
