"""A preparation that is killed, anywhere, goes on: what was written is not read again, and the dataset is the same."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from parts_source import PartsSource, write_part

from ganglion.artifacts.store import FolderStore
from ganglion.core import faults
from ganglion.data import prepare

PIECES = 10

CHILD = """
import os, signal, sys
from pathlib import Path
from parts_source import PartsSource
from ganglion.artifacts.store import FolderStore
from ganglion.core import faults
from ganglion.data import prepare

folder, log, store, place, occurrence = sys.argv[1:]
left = [int(occurrence)]

def kill(name, context):
    if name == place:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

faults.install(kill)
print("ready", flush=True)
dataset = prepare(PartsSource(folder=folder, log=log), FolderStore(Path(store)), segment_bytes=60, max_bad=3)
print(dataset.artifact.digest)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def source(tmp_path: Path) -> PartsSource:
    """Ten files of four records each, one of them bad in the last; every file is a piece."""
    for number in range(PIECES):
        lines = list(range(4 * number, 4 * number + 4))
        write_part(tmp_path / "parts", number, [*lines[:3], "!9"] if number == PIECES - 1 else lines)
    return PartsSource(folder=str(tmp_path / "parts"), log=str(tmp_path / "reads"))


@pytest.fixture
def expected(source: PartsSource, tmp_path: Path, reads) -> str:
    """The digest of the dataset of a preparation that nothing happened to."""
    found = prepare(source, FolderStore(tmp_path / "undisturbed"), segment_bytes=60, max_bad=3).artifact.digest
    assert len(reads()) == PIECES
    return found


@pytest.mark.parametrize(
    ("place", "occurrence", "finished"),
    [
        ("data.segment", 1, 0),
        ("data.segment", 7, 3),
        ("artifacts.commit", 2, 0),
        ("data.report", 1, 0),
        ("data.report", 6, 5),
        ("data.commit", 1, PIECES),
    ],
)
def test_killed_at_a_point(
    source: PartsSource,
    store: FolderStore,
    expected: str,
    reads,
    python: Start,
    place: str,
    occurrence: int,
    finished: int,
) -> None:
    child = python(CHILD, source.folder, source.log, store.root, place, occurrence)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert len(reads()) == min(PIECES, finished + 1)
    dataset = prepare(source, store, segment_bytes=60, max_bad=3)
    assert dataset.artifact.digest == expected
    assert len(reads()) == PIECES - finished
    dataset.verify()
    assert [record.reason for record in dataset.quarantine()] == ["9 is no number"]
    assert dataset.slice(0, dataset.count)["x"].tolist() == list(range(4 * PIECES - 1))


def kill_at_random(
    seed: int, source: PartsSource, store: FolderStore, expected: str, python: Start, most: int = 8
) -> int:
    """Start children and kill them after random times, `most` at most; returns how many died."""
    draw = random.Random(seed)
    for deaths in range(200):
        child = python(CHILD, source.folder, source.log, store.root, "", 0)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        try:
            output, errors = child.communicate(timeout=draw.uniform(0.0, 0.15) if deaths < most else None)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            continue
        assert child.returncode == 0, errors
        assert output.strip() == expected
        return deaths
    raise AssertionError("no child got through")


def test_killed_at_random_moments(source: PartsSource, store: FolderStore, expected: str, reads, python: Start) -> None:
    deaths = kill_at_random(1, source, store, expected, python, most=4)
    assert len(reads()) <= PIECES + deaths  # a death costs at most the piece that was being written
    prepare(source, store, segment_bytes=60, max_bad=3).verify()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_many_random_moments(source, store, expected, reads, python: Start, seed: int) -> None:
    deaths = kill_at_random(seed, source, store, expected, python)
    assert len(reads()) <= PIECES + deaths


def test_two_at_once_do_the_work_once(
    source: PartsSource, store: FolderStore, expected: str, reads, python: Start
) -> None:
    children = [python(CHILD, source.folder, source.log, store.root, "", 0) for _ in range(2)]
    outputs = [child.communicate()[0].split()[-1] for child in children]
    assert outputs == [expected, expected]
    assert len(reads()) == PIECES


def test_a_written_piece_whose_segment_is_gone_is_read_again(source, store, expected: str, reads) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(name: str, context: dict) -> None:
        if name == "data.commit":
            raise Interrupted

    faults.install(interrupt)
    try:
        with pytest.raises(Interrupted):
            prepare(source, store, segment_bytes=60, max_bad=3)
    finally:
        faults.install(None)
    reads()
    segments = [blob for blob in store.blobs() if blob.path.read_bytes().startswith(b"ARROW1")]
    store.delete(segments[0].digest)
    assert prepare(source, store, segment_bytes=60, max_bad=3).artifact.digest == expected
    assert len(reads()) == 1
