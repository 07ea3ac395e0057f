"""A web server that is away in the middle of an epoch: waited for, or one typed event after which one can go on."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loading_records import digest
from remote_records import FILES, FORMATS, RECORDS, Fetch, remote_source, write_files

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import OutageError
from ganglion.data import ArraySource, Loader, Retry, prepare
from ganglion.data.dataset.prepared import PreparedDataset

HERE = Path(__file__).parent
BATCH, SCRIPTED = 30, 5
IMPATIENT = Retry(patience=0.1, timeout=0.5, first_delay=0.05)
PATIENT = Retry(patience=60, timeout=0.2, first_delay=0.05, most_delay=0.2)


class Unsteady:
    """The server, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "unsteady_server.py"), str(folder)], stdout=subprocess.PIPE, text=True
        )
        self.url = f"http://127.0.0.1:{self.line()}"

    def go_away(self, how: str, *, after: int, seconds: float) -> None:
        """Be away for some seconds, from the request on that comes after so many others."""
        with urllib.request.urlopen(f"{self.url}/script/{how}/{after}/{seconds}") as answer:
            assert answer.status == 204

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def event(self, name: str) -> float:
        """Wait for it to be `away` or `back`; returns when that was."""
        found, at = self.line().split()
        assert found == name
        return float(at)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unsteady]:
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "files"
    folder.mkdir()
    write_files(folder)
    started = Unsteady(folder)
    yield started
    started.process.kill()
    started.process.wait()
    assert started.process.stdout is not None
    started.process.stdout.close()


@pytest.fixture
def places(tmp_path: Path) -> PreparedDataset:
    """Records that say in which file and row their value is."""
    file, row = (column.reshape(-1) for column in np.indices((FILES, RECORDS)))
    return prepare(ArraySource({"file": file, "row": row}), FolderStore(tmp_path / "store"))


def loader(dataset: PreparedDataset, server: Unsteady, format: str, retry: Retry, **options: object) -> Loader:
    """With so little memory that a batch is made at a time, and few are ready before they are wanted."""
    return Loader(
        dataset, global_batch=BATCH, seed=5, blocks=50, window=100, transforms=(Fetch(server.url, format, retry),),
        parallel=2, memory=2**15, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("format", "how", "seconds"),
    [
        ("csv", "silent", 2.0),
        ("parquet", "refusing", 0.5),
        ("tfrecord", "resetting", 0.5),
        *(pytest.param(format, "silent", 20.0, marks=pytest.mark.soak) for format in FORMATS),
    ],
)
def test_an_outage_that_is_shorter_than_patience_is_waited_for(
    server: Unsteady, places: PreparedDataset, format: str, how: str, seconds: float
) -> None:
    expected = [digest(batch) for batch in loader(places, server, format, PATIENT)]
    with loader(places, server, format, PATIENT) as disturbed:
        found, ends = [], []
        for batch in disturbed:
            found.append(digest(batch))
            ends.append(time.monotonic())
            if disturbed.step == SCRIPTED:
                server.go_away(how, after=3, seconds=seconds)
        away, back = server.event("away"), server.event("back")
    assert found == expected
    assert disturbed.delivered == disturbed.expected(0)
    assert ends[0] < away
    assert sum(away + seconds / 2 < end < back for end in ends) == 0  # what was ready is delivered long since
    assert ends[-1] > back


@pytest.mark.parametrize(
    ("format", "how", "seconds", "workers"),
    [
        ("csv", "refusing", 1.0, "threads"),
        ("parquet", "silent", 3.0, "threads"),
        ("tfrecord", "resetting", 2.0, "processes"),
        *(pytest.param(format, "silent", 20.0, "threads", marks=pytest.mark.soak) for format in FORMATS),
    ],
)
def test_a_longer_one_is_one_typed_event_at_a_step_boundary_after_which_the_epoch_goes_on(
    server: Unsteady, places: PreparedDataset, format: str, how: str, seconds: float, workers: str
) -> None:
    expected = [digest(batch) for batch in loader(places, server, format, PATIENT)]
    bad: list[object] = []
    with loader(places, server, format, IMPATIENT, workers=workers, set_aside=bad.append) as disturbed:
        found: list[str] = []

        def deliver() -> None:
            for batch in disturbed:
                found.append(digest(batch))
                if disturbed.step == SCRIPTED:
                    server.go_away(how, after=3, seconds=seconds)

        with pytest.raises(OutageError, match=rf"{server.url}/\d\.{format} could not be read for .* attempts"):
            deliver()
        state = disturbed.state_dict()
        assert SCRIPTED <= len(found) == state["step"] < len(expected)
        server.event("away")
        with pytest.raises(OutageError):  # it is still away, and the loader where it was
            next(iter(disturbed))
        assert disturbed.state_dict() == state
        server.event("back")
        found += [digest(batch) for batch in disturbed]
    assert found == expected
    assert disturbed.delivered == disturbed.expected(0)
    assert bad == []
    fresh = loader(places, server, format, IMPATIENT)  # of another process, say, after a checkpoint
    fresh.load_state_dict(state)
    assert [digest(batch) for batch in fresh] == expected[state["step"] :]


@pytest.mark.parametrize(
    ("format", "how", "seconds", "retry"),
    [
        ("csv", "refusing", 0.5, PATIENT),
        ("parquet", "silent", 1.0, IMPATIENT),
        ("tfrecord", "resetting", 0.5, IMPATIENT),
        *(pytest.param(format, "silent", 20.0, PATIENT, marks=pytest.mark.soak) for format in FORMATS),
    ],
)
def test_the_first_epoch_of_a_source_that_goes_away_while_it_is_prepared_is_the_same(
    server: Unsteady, tmp_path: Path, format: str, how: str, seconds: float, retry: Retry
) -> None:
    files = tuple(f"{server.url}/{number}.{format}" for number in range(FILES))
    source = remote_source(files, format, retry)
    undisturbed = prepare(source, FolderStore(tmp_path / "undisturbed"), segment_bytes=1000)
    store = FolderStore(tmp_path / "disturbed")
    server.go_away(how, after=2 * FILES, seconds=seconds)  # looking for them takes a request or two for each
    if retry is IMPATIENT:
        with pytest.raises(OutageError, match="could not be read"):
            prepare(source, store, segment_bytes=1000)
        server.event("away")
        server.event("back")
    dataset = prepare(source, store, segment_bytes=1000)
    if retry is PATIENT:
        server.event("away")
        server.event("back")
    assert dataset.artifact.digest == undisturbed.artifact.digest
    chains = [[digest(batch) for batch in Loader(each, global_batch=BATCH)] for each in (undisturbed, dataset)]
    assert chains[0] == chains[1]
