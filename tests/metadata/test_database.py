import io
import sqlite3

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from ganglion.core.errors import ConfigurationError
from ganglion.core.run_events import RunStarted
from ganglion.metadata import database, queries, schema
from ganglion.metadata.record import Record


@pytest.fixture
def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "ganglion.metadata:migrations")
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def test_migrations_make_the_tables_of_the_schema(record):
    with record.engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_every_revision_is_named(scripts):
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == schema.REVISIONS


def test_migrations_and_tables_can_be_written_for_postgresql(scripts):
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        for script in reversed(list(scripts.walk_revisions())):
            script.module.upgrade()
    for table in schema.metadata.sorted_tables:
        assert f"CREATE TABLE {table.name}" in written.getvalue()
        CreateTable(table).compile(dialect=postgresql.dialect())


def test_record_stays(tmp_path):
    path = tmp_path / "new folder" / "record.db"
    with Record.open(path) as record:
        record.apply(RunStarted(at=1, run="r", pipeline="p"))
    for target in (path, str(path), f"sqlite:///{path}"):
        with Record.open(target) as record:
            assert queries.run(record, "r").pipeline == "p"


def test_readers_see_the_state_before_an_open_write(record):
    record.apply(RunStarted(at=1, run="r", pipeline="before"))
    with Record.open(record.engine.url.database) as other, database.writing(record.engine) as connection:
        connection.execute(schema.runs.update().values(pipeline="after"))
        assert queries.run(other, "r").pipeline == "before"
    assert queries.run(record, "r").pipeline == "after"


def test_writer_does_not_wait_for_readers(record):
    with database.reading(record.engine) as connection:
        connection.execute(schema.runs.select()).all()
        record.apply(RunStarted(at=1, run="r", pipeline="p"))
        assert connection.execute(schema.runs.select()).all() == []
    assert len(queries.runs(record)) == 1


def test_writing_holds_the_only_write_lock_from_its_beginning(record):
    other = sqlite3.connect(record.engine.url.database, timeout=0)
    with database.writing(record.engine), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_newer_record_is_refused(tmp_path):
    path = tmp_path / "record.db"
    Record.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"9999.*newer"):
        Record.open(path)
    assert path.read_bytes() == before


def test_other_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="not a record"):
        Record.open(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database at all, but long enough to have a header" * 10)
    for path in (tmp_path / "text", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            Record.open(path)


@pytest.mark.parametrize("url", ["mysql://me:hush@host/db", "sqlite://", "sqlite:///:memory:", "://"])
def test_other_addresses_are_refused_without_their_password(url):
    with pytest.raises(ConfigurationError, match="sqlite:///PATH") as caught:
        Record.open(url)
    assert "hush" not in str(caught.value)


OPENER = """
import sys
from pathlib import Path
from ganglion.core.run_events import MetricReported, RunFinished, RunStarted, StepStarted
from ganglion.metadata.record import Record

path, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
with Record.open(path) as record:
    for run in ("shared", me):
        record.apply(RunStarted(at=1, run=run, pipeline="p", graph=[{"step": "s"}]))
        record.apply(StepStarted(at=2, run=run, step="s", attempt=1))
        for at in range(50):
            record.apply(MetricReported(at=at, run=run, step="s", member="w", name="loss", value=at))
        record.apply(RunFinished(at=60, run=run, state="succeeded"))
"""


def test_processes_open_a_new_record_and_write_at_the_same_time(tmp_path, run_python):
    path = tmp_path / "record.db"
    writers = [run_python(OPENER, path, f"own-{number}") for number in range(3)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, error = writer.communicate()
        assert writer.returncode == 0, error
    with Record.open(path) as record:
        assert {run.id: run.state for run in queries.runs(record)} == dict.fromkeys(
            ["shared", "own-0", "own-1", "own-2"], "succeeded"
        )
        for run in queries.runs(record):
            assert [point.value for point in queries.metrics(record, run.id)] == list(range(50))


KILLED = """
import os, sys
from pathlib import Path
from sqlalchemy import event
from ganglion.core.run_events import RunStarted
from ganglion.metadata.record import Record

record = Record.open(Path(sys.argv[1]))
event.listen(record.engine, "commit", lambda connection: os._exit(9))
record.apply_all(RunStarted(at=1, run=f"r{number}", pipeline="p") for number in range(1000))
"""


def test_writer_that_dies_before_the_commit_has_changed_nothing(tmp_path, run_python):
    path = tmp_path / "record.db"
    process = run_python(KILLED, path)
    _, error = process.communicate()
    assert process.returncode == 9, error
    with Record.open(path) as record:
        assert queries.runs(record) == ()
        record.apply(RunStarted(at=1, run="r", pipeline="p"))
        assert len(queries.runs(record)) == 1


KILLED_MIGRATION = """
import os, sys
from pathlib import Path
from sqlalchemy import Engine, event

def die(connection, cursor, statement, *rest):
    if "CREATE TABLE model_versions" in statement:
        os._exit(9)

event.listen(Engine, "after_cursor_execute", die)
from ganglion.metadata.record import Record
Record.open(Path(sys.argv[1]))
"""


def test_migration_that_dies_half_way_is_done_again(tmp_path, run_python):
    path = tmp_path / "record.db"
    process = run_python(KILLED_MIGRATION, path)
    _, error = process.communicate()
    assert process.returncode == 9, error
    with Record.open(path) as record:
        record.apply(RunStarted(at=1, run="r", pipeline="p"))
        assert len(queries.runs(record)) == 1


def test_current_record_is_not_migrated_again(record):
    statements = []
    event.listen(record.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with database.writing(record.engine) as connection:
        database.upgrade(connection)
    assert not any(word in statement for statement in statements for word in ("CREATE TABLE", "DROP", "ALTER"))
