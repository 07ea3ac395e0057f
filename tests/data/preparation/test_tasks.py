"""Pieces as Tasks: processes of a backend do the work, and may die."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parts_source import DeadlySource, PartsSource

from ganglion.artifacts.store import FolderStore
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import DataError, ExecutionError
from ganglion.core.resources import Resources
from ganglion.data import Progress, grow, open_dataset, prepare, prepare_elsewhere
from ganglion.data.sources.sql import SqlSource
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Task
from ganglion.execution.supervisor import Supervisor

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Run an entry as a Task of a local backend."""
    folder = tmp_path_factory.mktemp("ganglion")
    supervisor = Supervisor(LocalBackend(folder, LocalConfig(cpu=2.0)), folder)
    numbers = itertools.count()

    def run(entry: str, arguments: dict[str, Any]) -> Any:
        spec = Task(
            id=f"prepare-{next(numbers)}",
            entry=Entry(path=entry),
            arguments=arguments,
            resources=Resources(cpu=1.0),
            import_path=(HERE,),
        )
        outcome = supervisor.submit(spec).wait(60)
        outcome.raise_for_failure()
        return outcome.value

    yield run
    supervisor.close()


def test_processes_make_the_same_dataset(parts: PartsSource, store: FolderStore, tmp_path: Path, tasks, reads) -> None:
    expected = prepare(parts, FolderStore(tmp_path / "alone"), segment_bytes=200).artifact
    reads()
    told: list[Progress] = []
    found = prepare(parts, store, segment_bytes=200, workers=2, run=tasks, progress=told.append)
    assert found.artifact == expected
    assert sorted(reads()) == [f"00{number}.part" for number in range(10)]
    assert told[-1].records == 75
    assert prepare(parts, store, segment_bytes=200, workers=2, run=tasks).artifact == expected
    assert reads() == []
    assert grow(found, parts, store, workers=2, run=tasks).artifact == expected


def test_one_process_does_it_all(parts: PartsSource, store: FolderStore, tmp_path: Path, tasks) -> None:
    expected = prepare(parts, FolderStore(tmp_path / "alone")).artifact
    assert prepare_elsewhere(parts, store, tasks) == expected
    assert open_dataset(expected, store).count == 75


def test_after_a_process_was_killed_only_its_piece_is_read_again(parts, store, tmp_path, tasks, reads) -> None:
    deadly = "006.part"
    source = DeadlySource(folder=parts.folder, log=parts.log, deadly=deadly)
    with pytest.raises(ExecutionError, match=r"SIGKILL|signal 9|killed"):
        prepare(source, store, segment_bytes=60, workers=2, run=tasks)
    before = reads()
    assert deadly not in before
    found = prepare(source, store, segment_bytes=60, workers=2, run=tasks)
    assert sorted([*before, *reads()]) == [f"00{number}.part" for number in range(10)]
    expected = prepare(source, FolderStore(tmp_path / "alone"), segment_bytes=60).artifact
    assert found.artifact == expected


def test_too_many_bad_records_end_it(parts: PartsSource, store: FolderStore, tasks) -> None:
    path = Path(parts.folder) / "002.part"
    path.write_text("!1\n!2\n3\n4\n5\n")
    with pytest.raises(DataError, match=r"2 of \d+ records are bad.*\n.*002\.part, byte 0: read: 1 is no number"):
        prepare(parts, store, segment_bytes=60, max_bad=1, workers=2, run=tasks)


def test_all_processes_read_one_state_of_a_database(store: FolderStore, tmp_path: Path, tasks) -> None:
    path = tmp_path / "data.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER NOT NULL)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(number, number) for number in range(1000)])
    connection.close()

    def disturb(progress: Progress) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE t SET x = -1 WHERE id = 999")
            connection.execute("DELETE FROM t WHERE id = 500")
        connection.close()

    source = SqlSource(database=f"sqlite:///{path}", table="t", key="id", unit_records=250)
    dataset = prepare(source, store, segment_bytes=4000, workers=2, run=tasks, progress=disturb)
    assert sorted(dataset.slice(0, dataset.count)["x"].tolist()) == list(range(1000))
    assert prepare(source, store, segment_bytes=4000).count == 999
