"""Rows of databases: a real PostgreSQL server with writers at work, and SQLite files."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import postgresql_server
import pytest

from ganglion.core.errors import DataError, OutageError
from ganglion.data.files.retry import Retry
from ganglion.data.records.bad_record import BadRecord, refuse
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Field
from ganglion.data.source import source_data, source_from
from ganglion.data.sources.sql import SqlSource

IMPATIENT = Retry(patience=0.2, timeout=1.0, first_delay=0.01)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    if postgresql_server.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    with postgresql_server.server() as address:
        yield address


@pytest.fixture(params=["postgresql", "sqlite"])
def people(request: pytest.FixtureRequest, tmp_path: Path) -> SqlSource:
    """1,000 rows, keys 10, 20, ...; every 100th lacks its score, every 250th its age."""
    rows = (
        "SELECT n * 10 AS id, 'name ' || n AS name, CASE WHEN n % 250 <> 0 THEN n END AS age, "
        "CASE WHEN n % 100 <> 0 THEN n / 4.0 END AS score FROM numbers"
    )
    if request.param == "sqlite":
        with sqlite3.connect(tmp_path / "people.db") as connection:
            connection.execute(
                "CREATE TABLE people AS WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers "
                f"WHERE n < 1000) {rows}"
            )
        connection.close()
        address = f"sqlite:///{tmp_path}/people.db"
    else:
        address = request.getfixturevalue("postgresql")
        cast = rows.replace("n / 4.0", "n / 4.0::float8")
        postgresql_server.execute(
            address,
            "DROP TABLE IF EXISTS people",
            f"CREATE TABLE people AS WITH numbers AS (SELECT generate_series(1, 1000) AS n) {cast}",
        )
    return SqlSource(database=address, table="people", key="id", unit_records=300)


def everything(source: SqlSource, size: int = 2**20) -> tuple[Batch, list[BadRecord]]:
    bad: list[BadRecord] = []
    batches = [batch for unit in source.units() for batch in source.read_unit(unit, size, bad.append)]
    return Batch.join(batches), bad


def test_every_row_is_a_record_or_set_aside(people: SqlSource) -> None:
    batch, bad = everything(people)
    assert [unit.records for unit in people.units()] == [300, 300, 300, 100]
    assert [(unit.start, unit.stop) for unit in people.units()][:2] == [(10, 3001), (3010, 6001)]
    numbers = np.array([n for n in range(1, 1001) if n % 250])
    np.testing.assert_array_equal(batch.columns["id"], numbers * 10)
    np.testing.assert_array_equal(batch.columns["age"], numbers)
    np.testing.assert_array_equal(batch.columns["score"], np.where(numbers % 100, numbers / 4.0, np.nan))
    assert batch.columns["name"].to_pylist() == [f"name {n}" for n in numbers]
    assert [record.reason.partition(":")[0] for record in bad] == ["id 2500", "id 5000", "id 7500", "id 10000"]
    assert all("'age'" in record.reason and record.payload for record in bad)
    assert len({*batch.ids.tolist(), *(record.id for record in bad)}) == 1000


@pytest.mark.parametrize("size", [1, 2**24])
def test_the_size_of_batches_changes_nothing(people: SqlSource, size: int) -> None:
    expected, bad = everything(people)
    found, also_bad = everything(people, size)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.columns["name"].equals(expected.columns["name"])
    assert also_bad == bad


def test_columns_can_be_chosen_and_required(people: SqlSource) -> None:
    source = msgspec.structs.replace(people, columns=("score", "name"), required=("score",))
    assert source.schema == (Field("score", "float64"), Field("name", "text"))
    batch, bad = everything(source)
    assert list(batch.columns) == ["score", "name"]
    assert len(bad) == 10
    assert len(batch) == 990


def test_a_query_is_read_like_a_table(people: SqlSource) -> None:
    query = "SELECT id, score * 2 AS twice FROM people WHERE id > 9000;"
    source = msgspec.structs.replace(people, table="", query=query)
    batch, bad = everything(source)
    assert len(batch) == 100
    assert not bad
    np.testing.assert_array_equal(batch.columns["twice"][:-1], np.arange(901, 1000) / 2)


def test_the_source_is_plain_data(people: SqlSource) -> None:
    assert source_from(source_data(people)) == people


def test_the_fingerprint_follows_the_values(people: SqlSource) -> None:
    before, units = people.fingerprint(), people.units()
    assert people.fingerprint() == before
    statement = "UPDATE people SET score = -1 WHERE id = 4000"
    if people.database.startswith("sqlite"):
        with sqlite3.connect(people.database.removeprefix("sqlite:///")) as connection:
            connection.execute(statement)
        connection.close()
    else:
        postgresql_server.execute(people.database, statement)
    assert people.fingerprint() != before
    changed = [old.fingerprint != new.fingerprint for old, new in zip(units, people.units(), strict=True)]
    assert changed == [False, True, False, False]


def test_a_snapshot_stands_still(people: SqlSource) -> None:
    statement = "INSERT INTO people VALUES (5, 'new', 1, 1.0)"
    with people.snapshot() as still:
        if people.database.startswith("sqlite"):
            with sqlite3.connect(people.database.removeprefix("sqlite:///")) as connection:
                connection.execute(statement)
            connection.close()
        else:
            postgresql_server.execute(people.database, statement)
        assert sum(unit.records or 0 for unit in still.units()) == 1000
        assert 5 not in everything(still)[0].columns["id"]
    assert 5 in everything(people)[0].columns["id"]
    with pytest.raises(DataError):
        still.units()


def test_readers_in_parallel_see_one_state_while_others_write(postgresql: str) -> None:
    """Every row holds twice the number of its version, so that a row of another state is found out."""
    count = 5_000
    postgresql_server.execute(
        postgresql,
        "DROP TABLE IF EXISTS busy",
        "CREATE TABLE busy (id bigint PRIMARY KEY, version bigint, twice bigint)",
        f"INSERT INTO busy SELECT n * 2, 0, 0 FROM generate_series(1, {count}) n",
    )
    stop, rounds = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        for version in range(1, 1000):
            if stop.is_set():
                return
            postgresql_server.execute(
                postgresql,
                f"UPDATE busy SET version = {version}, twice = {2 * version}",
                f"INSERT INTO busy SELECT n * 2 + 1, 0, 0 FROM generate_series({version * 50}, {version * 50 + 49}) n",
                f"UPDATE busy SET id = id + 1000000 WHERE id = {2 * version}",  # moves to the end of the key
                f"DELETE FROM busy WHERE id = {count * 2 - 2 * version}",
            )
            rounds.release()

    source = SqlSource(database=postgresql, table="busy", key="id", unit_records=700)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        rounds.acquire()
        with source.snapshot() as still, ThreadPoolExecutor(4) as readers:
            units = still.units()
            rounds.acquire()
            batches = list(
                readers.map(lambda unit: Batch.join(list(still.read_unit(unit, 4096, refuse))), reversed(units))
            )
            rounds.acquire()
            again = Batch.join([batch for unit in units for batch in still.read_unit(unit, 2**20, refuse)])
    finally:
        stop.set()
        writer.join()
    found = Batch.join(batches[::-1])
    assert sum(unit.records or 0 for unit in units) == len(found) == len(again)
    for name in ("id", "version", "twice"):
        np.testing.assert_array_equal(found.columns[name], again.columns[name])
    assert len(np.unique(found.columns["id"])) == len(found)
    old = found.columns["version"] > 0
    assert np.ptp(found.columns["version"][old]) == 0
    np.testing.assert_array_equal(found.columns["twice"], 2 * found.columns["version"])


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"table": "", "query": ""}, "either a table or a query"),
            ({"query": "SELECT 1"}, "either a table or a query"),
            ({"table": "people; DROP TABLE people"}, "schema.name"),
            ({"unit_records": 0}, "at least 1"),
            ({"database": "postgresql://a:secret@host/name"}, "env:NAME"),
            ({"database": "postgresql://host/name?password=secret"}, "env:NAME"),
        ],
    )
    def test_arguments(self, arguments: dict[str, object], message: str) -> None:
        given = {"database": "sqlite:///people.db", "table": "people", "key": "id", **arguments}
        with pytest.raises(DataError, match=message) as caught:
            SqlSource(**given)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)

    def test_unknown_names(self, people: SqlSource) -> None:
        for change, message in [
            ({"table": "nobody"}, "nobody"),
            ({"key": "nothing"}, "nothing"),
            ({"key": "name"}, "integer is needed"),
            ({"columns": ("size",)}, "size"),
            ({"required": ("size",)}, "size"),
        ]:
            with pytest.raises(DataError, match=message):
                everything(msgspec.structs.replace(people, **change))

    def test_a_key_that_is_not_unique_or_is_missing(self, people: SqlSource) -> None:
        with pytest.raises(DataError, match="same in several rows"):
            everything(msgspec.structs.replace(people, table="", query="SELECT id / 20 AS id, name FROM people"))
        with pytest.raises(DataError, match=r"missing in some rows|is null in a row"):
            everything(msgspec.structs.replace(people, key="age"))

    def test_values_of_other_types_in_sqlite_are_set_aside(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, x REAL)")
            connection.executemany("INSERT INTO a VALUES (?, ?)", [(1, 1.5), (2, "oops"), (3, 2.5)])
        connection.close()
        batch, bad = everything(SqlSource(database=f"sqlite:///{tmp_path}/a.db", table="a", key="id"))
        assert batch.columns["x"].tolist() == [1.5, 2.5]
        assert [record.reason for record in bad] == ["id 2: 'x' is the str 'oops', not float64"]

    def test_an_address_in_the_environment(self, people: SqlSource, monkeypatch: pytest.MonkeyPatch) -> None:
        source = msgspec.structs.replace(people, database="env:PEOPLE")
        with pytest.raises(DataError, match="PEOPLE, which is not set"):
            source.units()
        monkeypatch.setenv("PEOPLE", people.database)
        assert source.fingerprint() == people.fingerprint()

    def test_no_server(self) -> None:
        address = "postgresql://ganglion@127.0.0.1:1/postgres"
        with pytest.raises(OutageError, match=r"127.0.0.1.*attempts.*refused"):
            SqlSource(database=address, table="people", key="id", retry=IMPATIENT).units()

    def test_no_file_and_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no file .*missing.db"):
            SqlSource(database=f"sqlite:///{tmp_path}/missing.db", table="people", key="id").units()
        (tmp_path / "text.db").write_text("this is text " * 100)
        with pytest.raises(DataError, match="not a database"):
            SqlSource(database=f"sqlite:///{tmp_path}/text.db", table="people", key="id").units()
        with pytest.raises(DataError, match="postgresql:// nor sqlite://"):
            SqlSource(database="mysql://host/name", table="people", key="id").units()
