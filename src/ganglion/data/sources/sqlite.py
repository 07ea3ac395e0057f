"""SQLite, by Python's own driver; a snapshot is a copy of the file, made by SQLite's backup.

SQLite lets every value of a column have a type of its own. So the type of a column is that of most of its first values,
and a row with a value of another type is a bad one.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from ganglion.core.errors import DataError
from ganglion.data.files.retry import Retry
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema, records_within
from ganglion.data.sources.arrow_columns import Flaws, arrow_type_of
from ganglion.data.sources.sql_database import KeyRange, Relation, quoted

_SAMPLE = 1000
"""Rows that the types of columns are found from."""

_DTYPES = {"integer": "int64", "real": "float64", "text": TEXT, "blob": BYTES}
_ALLOWED: dict[str, tuple[type, ...]] = {"int64": (int,), "float64": (float, int), TEXT: (str,), BYTES: (bytes,)}


class SqliteDatabase:
    """A file at an address such as `sqlite:///shop.db`."""

    def __init__(self, address: str, _retry: Retry) -> None:
        self._path = Path(address.removeprefix("sqlite:///"))
        self._name = f"SQLite database {self._path}"

    @contextmanager
    def session(self, at: str) -> Iterator[_Session]:
        """Open the file, or the copy of it that is the snapshot, for reading; every query sees the same state."""
        with self._open(Path(at) if at else self._path) as connection:
            connection.execute("BEGIN")
            yield _Session(connection)

    @contextmanager
    def snapshot(self) -> Iterator[str]:
        """Copy the database to a temporary file."""
        with tempfile.TemporaryDirectory(prefix="ganglion-sqlite-") as folder, self._open(self._path) as source:
            path = Path(folder) / "snapshot.db"
            with closing(sqlite3.connect(path)) as copy:
                source.backup(copy)
            yield str(path)

    @contextmanager
    def _open(self, path: Path) -> Iterator[sqlite3.Connection]:
        if not path.is_file():
            raise DataError(f"There is no file {path}; a SQLite database is needed there.")
        address = f"file:{quote(os.fspath(path.absolute()))}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise DataError(f"{self._name} cannot be read: {error}.") from error


class _Session:
    """A transaction that reads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fields(self, relation: Relation) -> Schema:
        """The columns, each with the type of most of its first values; whole numbers among others are such numbers."""
        cursor = self._connection.execute(f"SELECT * FROM {relation} LIMIT 0")
        names = [column[0] for column in cursor.description]
        kinds = ", ".join(f"typeof({quoted(name)})" for name in names)
        sample = self._connection.execute(f"SELECT {kinds} FROM {relation} LIMIT {_SAMPLE}").fetchall()
        columns = zip(*sample, strict=True) if sample else [()] * len(names)
        return tuple(Field(name, _dtype(column)) for name, column in zip(names, columns, strict=True))

    def ranges(self, relation: Relation, key: str, records: int) -> list[KeyRange]:
        """Number the keys and digest the rows, in one pass over each range."""
        name = quoted(key)
        odd = self._connection.execute(
            f"SELECT typeof({name}) FROM {relation} WHERE typeof({name}) <> 'integer' LIMIT 1"
        ).fetchone()
        if odd:
            raise DataError(f"The key {key!r} is {odd[0]} in a row; an integer is needed in every row.")
        cursor = self._connection.execute(f"SELECT {name}, * FROM {relation} ORDER BY {name}")
        found = []
        while rows := cursor.fetchmany(records):
            found.append(
                KeyRange(
                    first=rows[0][0], last=rows[-1][0], records=len(rows), fingerprint=digest_of(repr(rows).encode())
                )
            )
        return found

    def rows(
        self, relation: Relation, fields: Schema, key: str, within: tuple[int, int], size: int
    ) -> Iterator[tuple[pa.Table, Flaws]]:
        """The rows of a range, in the order of their key."""
        name = quoted(key)
        wanted = ", ".join(quoted(field.name) for field in fields)
        cursor = self._connection.execute(
            f"SELECT {wanted} FROM {relation} WHERE {name} BETWEEN ? AND ? ORDER BY {name}", (within[0], within[1] - 1)
        )
        while rows := cursor.fetchmany(records_within(fields, size)):
            flaws: Flaws = {}
            columns = [
                _column(field, list(values), flaws)
                for field, values in zip(fields, zip(*rows, strict=True), strict=True)
            ]
            yield pa.table(dict(zip((field.name for field in fields), columns, strict=True))), flaws


def _dtype(kinds: tuple[str, ...]) -> str:
    counted = Counter(kind for kind in kinds if kind != "null")
    if not counted:
        return "float64"  # no value was seen, so any number may come
    if set(counted) == {"integer", "real"}:
        return "float64"
    return _DTYPES[counted.most_common(1)[0][0]]


def _column(field: Field, values: list[Any], flaws: Flaws) -> pa.Array:
    """Values as Arrow; those of another type than the field's are noted, and left out."""
    allowed = _ALLOWED[field.dtype]
    for row, value in enumerate(values):
        if value is not None and type(value) not in allowed:
            flaws.setdefault(row, f"{field.name!r} is the {type(value).__name__} {value!r:.100}, not {field.dtype}")
            values[row] = None
    return pa.array(values, arrow_type_of(field))
