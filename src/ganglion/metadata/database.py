"""How the record's database is opened, locked and brought up to date.

This is the only module that knows which database it is: SQLite, in write-ahead mode so that readers and a writer do
not wait for each other, with transactions that take the write lock when they begin so that two writers queue instead
of failing half way.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, Insert, Table, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError

from ganglion.core.errors import ConfigurationError
from ganglion.metadata.schema import REVISIONS

_BUSY_SECONDS = 60.0
"""How long a transaction waits for its turn to write."""


def open_database(target: str | Path) -> Engine:
    """Open the database and bring its tables up to date; safe while other processes do the same.

    Args:
        target: path of a SQLite file, or `sqlite:///PATH`; a missing file and its folder are created.

    Raises:
        ConfigurationError: the address is of another kind, the file cannot be opened or is no record, or a newer
            version has written it.
    """
    path = _path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None},  # the driver leaves BEGIN to _begin
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        with _opening(path.parent):
            _upgrade(engine, path)
    except DatabaseError as error:
        engine.dispose()
        raise ConfigurationError(f"The record {path} cannot be opened: {error.orig}.") from error
    except ConfigurationError:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database however many queries it makes."""
    with engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: at most one at a time, committed as a whole or not at all."""
    with engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
        yield connection


def insert_missing(table: Table) -> Insert:
    """An INSERT that leaves a row alone whose primary key exists already."""
    return sqlite.insert(table).on_conflict_do_nothing()


def _path(target: str | Path) -> Path:
    if isinstance(target, Path) or "://" not in target:
        return Path(target).absolute()
    try:
        url = make_url(target)
    except ArgumentError as error:
        raise ConfigurationError(f"{target!r} is not a database address; write a path or sqlite:///PATH.") from error
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        shown = url.render_as_string(hide_password=True)
        raise ConfigurationError(f"The record cannot be kept at {shown!r}; write a path or sqlite:///PATH.")
    return Path(url.database).absolute()


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")  # the journals of the runs are the truth


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


@contextmanager
def _opening(folder: Path) -> Iterator[None]:
    """Keep others from opening a database in `folder`: of two that change its journal mode at once, one may fail."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _upgrade(engine: Engine, path: Path) -> None:
    with reading(engine) as connection:
        revision = _revision(connection, path)
    if revision == REVISIONS[-1]:
        return
    if revision is not None and revision not in REVISIONS:
        raise ConfigurationError(
            f"The record {path} has the schema {revision}; this version of Ganglion knows {', '.join(REVISIONS)}. "
            "A newer version has written it: upgrade Ganglion, or use another project folder."
        )
    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.cursor().execute("PRAGMA journal_mode = WAL")  # outside of any transaction; stays with the file
    with writing(engine) as connection:
        upgrade(connection)


def _revision(connection: Connection, path: Path) -> str | None:
    """The schema that the database has; `None` for an empty one."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise ConfigurationError(f"{path} is a database, but not a record of Ganglion; give another path.")
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(connection: Connection) -> None:
    """Run the migrations that the database lacks, in the transaction of `connection`."""
    from alembic import command  # takes longer to import than a current record takes to open
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
