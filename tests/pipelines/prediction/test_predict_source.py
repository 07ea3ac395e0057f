"""Every record of a source is predicted once, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubling import BROKEN, FILES, GOOD, RECORDS, REFUSED, Doubling, rows
from hypothesis import given
from hypothesis import strategies as st

from ganglion.artifacts.store import FolderStore
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core import faults
from ganglion.core.errors import DataError, ExecutionError, ModelError, NotFoundError
from ganglion.core.resources import Resources
from ganglion.data import PlainSource, Progress, open_source, prepare
from ganglion.data.dataset.quarantine import read_quarantine
from ganglion.data.records.unit import RECORDS as UNIT
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Task
from ganglion.execution.supervisor import Supervisor
from ganglion.pipelines.prediction.dataset_source import DatasetSource
from ganglion.pipelines.prediction.driver import divide
from ganglion.pipelines.prediction.folder import PredictionFolder
from ganglion.pipelines.prediction.piece import run_pieces

HERE = str(Path(__file__).parent)

CHILD = """
import os, signal, sys
from pathlib import Path
from doubling import Doubling
from ganglion.core import faults
from ganglion.data import open_source

folder, destination, place, occurrence = sys.argv[1:]
left = [int(occurrence)]

def kill(name, context):
    if name == place:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

faults.install(kill)
print("ready", flush=True)
Doubling(Path(folder)).predict(open_source(str(Path(folder) / "numbers")), Path(destination))
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": HERE},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Run an entry as a Task of a local backend."""
    folder = tmp_path_factory.mktemp("ganglion")
    supervisor = Supervisor(LocalBackend(folder, LocalConfig(cpu=2.0)), folder)
    numbers = itertools.count()

    def run(entry: str, arguments: dict[str, Any]) -> Any:
        spec = Task(
            id=f"predict-{next(numbers)}",
            entry=Entry(path=entry),
            arguments=arguments,
            resources=Resources(cpu=1.0),
            preload=("numpy", "ganglion.data.preparation.driver"),
        )
        outcome = supervisor.submit(spec).wait(60)
        outcome.raise_for_failure()
        return outcome.value

    yield run
    supervisor.close()


def test_every_record_is_predicted_once_in_order(
    doubling: Doubling, source: PlainSource, tmp_path: Path, computed: Callable[[], Counter[int]]
) -> None:
    told: list[Progress] = []
    found = doubling.predict(source, tmp_path / "out", progress=told.append)
    assert (found.read, found.predicted, found.set_aside, found.left_out) == (200, 198, 2, 0)
    assert [row["name"] for row in rows(tmp_path / "out")] == [f"n{number}" for number in GOOD]
    assert [row["y"] for row in rows(tmp_path / "out")] == [2.0 * number for number in GOOD]
    assert [row["id"] for row in rows(tmp_path / "out")] == [
        number // RECORDS * UNIT + number % RECORDS for number in GOOD
    ]
    assert computed() == Counter(GOOD)
    assert (told[0].pieces, told[-1].pieces, told[-1].records, told[-1].set_aside) == (0, FILES, 198, 2)
    report = json.loads((tmp_path / "out" / "_report.json").read_text())
    assert report["model"] == {"name": "doubling", "version": 1, "digest": found.model.digest}
    assert report["read"] == report["predicted"] + report["set_aside"]


def test_one_part_has_the_records_of_several_files(doubling: Doubling, source: PlainSource, tmp_path: Path) -> None:
    found = doubling.predict(source, tmp_path / "out", part_bytes=None)
    assert (found.read, found.predicted, found.set_aside, found.left_out) == (200, 198, 2, 0)
    assert found.parts == ("part-00000.parquet",)
    assert [row["y"] for row in rows(tmp_path / "out")] == [2.0 * number for number in GOOD]


def test_bad_records_are_set_aside_with_their_reasons(doubling: Doubling, source: PlainSource, tmp_path: Path) -> None:
    found = doubling.predict(source, tmp_path / "out")
    bad = [record for path in sorted((tmp_path / "out" / "_bad").iterdir()) for record in read_quarantine(path)]
    assert [(record.stage, record.id % UNIT + record.id // UNIT * RECORDS) for record in bad] == [
        ("predict", REFUSED),
        ("read", BROKEN),
    ]
    assert bad[0].reason == "33 is too much"
    assert {(count.stage, count.count) for count in found.bad} == {("predict", 1), ("read", 1)}


def test_too_many_bad_records_end_it_and_more_tolerance_goes_on(
    doubling: Doubling, source: PlainSource, tmp_path: Path, computed: Callable[[], Counter[int]]
) -> None:
    with pytest.raises(DataError, match=r"(?s)1 of 40 records are bad.*33 is too much"):
        doubling.predict(source, tmp_path / "out", max_bad=0)
    assert not (tmp_path / "out" / "_report.json").exists()
    assert [path.name for path in sorted((tmp_path / "out").glob("part-*"))] == ["part-00000.parquet"]
    before = computed()
    assert doubling.predict(source, tmp_path / "out", max_bad=2).set_aside == 2
    again = computed()
    assert not before & again - Counter(range(RECORDS, 2 * RECORDS)), "only the piece that was given up is done again"


def test_what_is_done_is_not_done_again(
    doubling: Doubling, source: PlainSource, tmp_path: Path, computed: Callable[[], Counter[int]]
) -> None:
    first = doubling.predict(source, tmp_path / "out")
    computed()
    assert doubling.predict(source, tmp_path / "out") == first
    assert computed() == Counter()
    (tmp_path / "out" / "part-00004.parquet").unlink()
    assert doubling.predict(source, tmp_path / "out") == first, "a part that is gone is made again"
    assert len(rows(tmp_path / "out")) == 198


@pytest.mark.parametrize(
    ("place", "occurrence", "finished"),
    [
        ("prediction.part", 1, 0),
        ("prediction.report", 6, 5),
        ("prediction.finish", 1, FILES),
    ],
)
def test_killed_at_a_point(
    doubling: Doubling,
    source: PlainSource,
    tmp_path: Path,
    computed: Callable[[], Counter[int]],
    place: str,
    occurrence: int,
    finished: int,
) -> None:
    with start(doubling.folder, tmp_path / "out", place, occurrence) as child:
        child.wait(timeout=100)
    assert child.returncode == -signal.SIGKILL
    computed()
    doubling.predict(source, tmp_path / "out")
    assert computed() == Counter(number for number in GOOD if number >= finished * RECORDS)
    assert [row["y"] for row in rows(tmp_path / "out")] == [2.0 * number for number in GOOD]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_bad",
        "_job.json",
        "_report.json",
        *(f"part-{number:05d}.parquet" for number in range(FILES)),
    ]


@pytest.mark.soak
def test_killed_at_any_moment(doubling: Doubling, source: PlainSource, tmp_path: Path) -> None:
    undisturbed = doubling.predict(source, tmp_path / "undisturbed")
    draw = np.random.default_rng(7)
    for _ in range(15):
        with start(doubling.folder, tmp_path / "out", "", 0) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            try:
                child.wait(timeout=draw.uniform(0.0, 0.3))
            except subprocess.TimeoutExpired:
                child.kill()
    assert doubling.predict(source, tmp_path / "out") == undisturbed
    assert rows(tmp_path / "out") == rows(tmp_path / "undisturbed")


def test_tasks_do_the_same(
    doubling: Doubling,
    source: PlainSource,
    tmp_path: Path,
    computed: Callable[[], Counter[int]],
    tasks: Callable[[str, dict[str, Any]], Any],
) -> None:
    expected = doubling.predict(source, tmp_path / "alone")
    computed()
    asked: list[list[int]] = []

    def run(entry: str, arguments: dict[str, Any]) -> Any:
        asked.append(arguments["pieces"])
        if len(asked) == 3:
            raise ExecutionError("the machine is lost")
        return tasks(entry, arguments)

    with pytest.raises(ExecutionError, match="lost"):
        doubling.predict(source, tmp_path / "out", workers=2, run=run)
    before = computed()
    assert before, "what others had done stays done"
    assert doubling.predict(source, tmp_path / "out", workers=2, run=tasks) == expected
    assert before + computed() == Counter(GOOD)
    assert rows(tmp_path / "out") == rows(tmp_path / "alone")


@given(st.integers(0, 40), st.integers(1, 12))
def test_groups_have_every_piece_once_and_are_of_a_size(pieces: int, groups: int) -> None:
    found = divide(range(pieces), groups)
    assert [piece for group in found for piece in group] == list(range(pieces))
    assert len(found) == min(pieces, groups)
    assert not found or max(map(len, found)) - min(map(len, found)) <= 1


def test_who_is_not_wanted_any_more_ends_after_its_piece(
    doubling: Doubling, source: PlainSource, tmp_path: Path, computed: Callable[[], Counter[int]]
) -> None:
    asked: list[dict[str, Any]] = []

    def refuse(entry: str, arguments: dict[str, Any]) -> Any:
        asked.append(arguments)
        raise ExecutionError("no room")

    with pytest.raises(ExecutionError, match="no room"):
        doubling.predict(source, tmp_path / "out", workers=2, run=refuse)
    place = PredictionFolder(tmp_path / "out")
    assert not place.is_ordered()

    def withdraw(entry: str, arguments: dict[str, Any]) -> Any:
        faults.install(lambda name, _context: place.withdraw_order() if name == "prediction.report" else None)
        try:
            return run_pieces(**arguments)
        finally:
            faults.install(None)

    with pytest.raises(FileNotFoundError):
        doubling.predict(source, tmp_path / "out", run=withdraw)
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    assert computed() == Counter(range(RECORDS))


def test_the_rows_of_a_prepared_dataset_have_the_ids_of_its_source(
    doubling: Doubling, source: PlainSource, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    prepared = prepare(source, store, max_bad=1)
    found = doubling.predict(DatasetSource.of(prepared), tmp_path / "out")
    assert (found.read, found.predicted, found.set_aside) == (199, 198, 1)
    doubling.predict(source, tmp_path / "direct")
    assert rows(tmp_path / "out") == rows(tmp_path / "direct")


def test_filters_are_accounted_for(doubling: Doubling, source: PlainSource, tmp_path: Path) -> None:
    filtered = source.filter("doubling_filter:is_even")
    found = doubling.predict(filtered, tmp_path / "out")
    assert (found.read, found.predicted, found.set_aside, found.left_out) == (200, 100, 1, 99)


def test_a_folder_is_for_one_model_and_one_source(doubling: Doubling, source: PlainSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    doubling.predict(source, out)
    doubling.publish()
    with pytest.raises(DataError, match=r"version 1 of 'doubling', and 'doubling' version 2 was asked"):
        doubling.predict(source, out, model="doubling:2")
    with pytest.raises(DataError, match="as parquet, not jsonl"):
        doubling.predict(source, out, form="jsonl")
    with pytest.raises(DataError, match="the columns name, not none"):
        doubling.predict(source, out, columns=())
    (doubling.folder / "numbers" / "99.jsonl").write_text('{"x": 1000, "name": "new"}\n')
    with pytest.raises(DataError, match="another source, or for this one before it changed"):
        doubling.predict(source, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"not empty \(thesis\.tex\)"):
        doubling.predict(source, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_what_cannot_be_predicted_is_refused_before_a_file_is_written(
    doubling: Doubling, source: PlainSource, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotFoundError, match="Did you mean 'doubling'"):
        doubling.predict(source, out, model="dubling")
    with pytest.raises(DataError, match=r"no column 'nmae' to keep.*Did you mean 'name'"):
        doubling.predict(source, out, columns=["nmae"])
    (doubling.folder / "y.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="two columns 'y'"):
        doubling.predict(open_source(str(doubling.folder / "y.csv")), out, columns=["y"])
    with pytest.raises(DataError, match=r"does not fit the input x int64"):
        doubling.predict(source, out, feeds={"x": ["name"]})
    assert not out.exists()


def test_a_model_that_is_damaged_meanwhile_is_not_used(doubling: Doubling, source: PlainSource, tmp_path: Path) -> None:
    file = doubling.repository.path("doubling", 1) / "predictor.py"
    file.write_text(file.read_text().replace("2.0 *", "3.0 *"))
    with pytest.raises(ModelError, match="damaged"):
        doubling.predict(source, tmp_path / "out")
