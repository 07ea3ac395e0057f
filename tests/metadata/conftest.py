import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from ganglion.metadata import schema
from ganglion.metadata.record import Record


@pytest.fixture(scope="session")
def empty_record_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "record.db"
    Record.open(path).close()
    return path


@pytest.fixture
def new_record(tmp_path, empty_record_file):
    """Makes records, each on a database of its own, faster than by migration."""
    opened = []

    def make() -> Record:
        path = tmp_path / f"record-{len(opened)}.db"
        shutil.copy(empty_record_file, path)
        opened.append(Record.open(path))
        return opened[-1]

    yield make
    for record in opened:
        record.close()


@pytest.fixture
def record(new_record) -> Record:
    return new_record()


@pytest.fixture(scope="session")
def tables():
    """Everything that a record holds, in a form that can be compared."""

    def read(record: Record) -> dict[str, list[str]]:
        with record.engine.begin() as connection:
            return {
                table.name: sorted(map(repr, connection.execute(select(table))))
                for table in schema.metadata.sorted_tables
            }

    return read
