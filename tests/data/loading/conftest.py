from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganglion.artifacts.store import FolderStore
from ganglion.data.dataset.prepared import PreparedDataset

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # also for the processes of loaders, which get it by name


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Packed sequences of a file whose every hundredth line is corrupt; in several segments."""
    from loading_records import packed_dataset

    folder = tmp_path_factory.mktemp("packed")
    return packed_dataset(folder, FolderStore(folder / "store"))


@pytest.fixture
def children() -> Iterator[None]:
    """Fails where a process that the test started is there after it."""
    import psutil

    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before
