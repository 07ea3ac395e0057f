from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
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
def children() -> Iterator[Callable[[], list[psutil.Process]]]:
    """The processes that the test started, zygotes before their workers; fails where one is there after it.

    Other tests of the session may have children too, such as a cluster that they share.
    """
    before = set(psutil.Process().children())

    def started() -> list[psutil.Process]:
        own = [process for process in psutil.Process().children() if process not in before]
        return [*own, *(worker for process in own for worker in process.children(recursive=True))]

    yield started
    assert started() == []
