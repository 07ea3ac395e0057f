"""What the drivers have in common that speak ADBC, Arrow's interface to databases: connections, queries and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
from adbc_driver_manager import Error, OperationalError

from ganglion.core.errors import DataError, OutageError
from ganglion.data.files.retry import Retry, retried


def connect(open_connection: Callable[[], Any], retry: Retry, name: str) -> Any:
    """Connect, as often as it takes.

    Args:
        open_connection: makes a connection of the driver.
        retry: for how long.
        name: of the database, for messages.

    Raises:
        DataError: the database refuses.
        OutageError: it is away.
    """

    def attempt() -> Any:
        try:
            return open_connection()
        except OperationalError as error:
            raise ConnectionError(describe(error)) from error

    try:
        return retried(attempt, retry, name)
    except Error as error:
        raise DataError(f"{name} cannot be used: {describe(error)}") from error


def execute(connection: Any, statement: str, name: str, **options: str) -> Iterator[pa.RecordBatch]:
    """Run one statement; yields its result as it comes.

    Raises:
        DataError: the database cannot.
        OutageError: the connection was lost.
    """
    with closing(connection.cursor()) as cursor, naming_the_database(name):
        if options:
            cursor.adbc_statement.set_options(**options)
        cursor.execute(statement)
        if cursor.description is None:
            return
        reader = cursor.fetch_record_batch()
        with naming_the_database(name):
            yield from reader


def fetch(connection: Any, statement: str, name: str) -> pa.Table:
    """Run one statement and give its whole result, which may have no columns; errors as for `execute`."""
    with closing(connection.cursor()) as cursor, naming_the_database(name):
        cursor.execute(statement)
        return cursor.fetch_arrow_table() if cursor.description else pa.table({})


@contextmanager
def naming_the_database(name: str) -> Iterator[None]:
    """Turn errors of the driver into ours."""
    try:
        yield
    except (OperationalError, OSError) as error:
        if isinstance(error, OperationalError) and error.sqlstate:  # the server answered
            raise DataError(f"{name} cannot be read: {describe(error)}") from error
        raise OutageError(f"{name} went away while it was read: {describe(error)}. Read it again.") from error
    except (Error, pa.ArrowException) as error:
        raise DataError(f"{name} cannot be read: {describe(error)}") from error


def describe(error: Exception) -> str:
    """What the database says, in one line, without the query."""
    text = str(error).partition("\nQuery was:")[0]
    return " ".join(line.strip() for line in text.splitlines() if set(line.strip()) - {"^"})
