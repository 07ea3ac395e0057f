"""PostgreSQL, by its ADBC driver: results come as binary COPY, snapshots are exported by one session to all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import adbc_driver_postgresql.dbapi
import pyarrow as pa

from ganglion.core.errors import DataError
from ganglion.data.files.retry import Retry
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Field, Schema
from ganglion.data.sources import adbc
from ganglion.data.sources.arrow_columns import Flaws
from ganglion.data.sources.arrow_fields import field_of
from ganglion.data.sources.sql_database import KeyRange, Relation, quoted

_BEGIN = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BATCH = "adbc.postgresql.batch_size_hint_bytes"
_NUMERIC = b"numeric"
_LOW = 2**32 - 1  # sums of the lower halves of hashes stay exact in 64 bits, which is far faster than longer numbers


class PostgresqlDatabase:
    """A server at an address such as `postgresql://user@host:port/name`."""

    def __init__(self, address: str, retry: Retry) -> None:
        parts = urlsplit(address)
        self._address = address
        self._retry = retry
        self._name = f"PostgreSQL database {parts.path.lstrip('/') or 'postgres'} at {parts.hostname or 'localhost'}"

    @contextmanager
    def session(self, at: str) -> Iterator[_Session]:
        """Connect; every query of the session sees the same state."""
        with self._transaction() as connection:
            if at:
                adbc.fetch(connection, f"SET TRANSACTION SNAPSHOT {_literal(at)}", self._name)
            yield _Session(connection, self._name)

    @contextmanager
    def snapshot(self) -> Iterator[str]:
        """Export the snapshot of a transaction, which is kept open meanwhile."""
        with self._transaction() as connection:
            yield adbc.fetch(connection, "SELECT pg_export_snapshot()", self._name).column(0)[0].as_py()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        def open_connection() -> Any:
            return adbc_driver_postgresql.dbapi.connect(self._address)

        with closing(adbc.connect(open_connection, self._retry, self._name)) as connection:
            adbc.fetch(connection, _BEGIN, self._name)
            yield connection


class _Session:
    """A transaction that reads."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name

    def fields(self, relation: Relation) -> Schema:
        """The columns; `numeric`, which no number of NumPy holds exactly, is read as float64."""
        return tuple(
            Field(column.name, "float64") if _is_numeric(column) else field_of(column.name, column.type, self._name)
            for column in self._columns(relation)
        )

    def ranges(self, relation: Relation, key: str, records: int) -> list[KeyRange]:
        """Find where ranges begin by numbering the keys, then digest the rows of each, in the server."""
        column = next((column for column in self._columns(relation) if column.name == key), None)
        if column is None or not pa.types.is_integer(column.type):
            raise DataError(f"The key {key!r} is {column.type if column else 'no column'}; an integer is needed.")
        name = quoted(key)
        numbered = f"SELECT {name} AS key, row_number() OVER (ORDER BY {name}) AS number FROM {relation} AS relation"
        each = f"(number - 1) % {records} = 0"
        starts = self._fetch(f"SELECT key FROM ({numbered}) AS numbered WHERE {each} ORDER BY key")
        keys = starts.column(0).to_pylist()
        if not keys:
            return []
        bounds = ", ".join(str(value) for value in keys if value is not None)
        found = self._fetch(
            f"SELECT min(key), max(key), count(*), sum(hash & {_LOW})::text, bit_xor(hash) FROM "
            f"(SELECT {name}::bigint AS key, hash_record_extended(relation, 0) AS hash FROM {relation} AS relation "
            "OFFSET 0) AS hashed "  # so that each hash is computed once
            f"GROUP BY width_bucket(key, ARRAY[{bounds}]::bigint[]) ORDER BY 1"
        )
        if found.column(0).null_count:
            raise DataError(f"The key {key!r} is missing in some rows; every row needs one.")
        return [
            KeyRange(first=first, last=last, records=count, fingerprint=digest_of(f"{count} {total} {mixed}".encode()))
            for first, last, count, total, mixed in zip(*(one.to_pylist() for one in found.columns), strict=True)
        ]

    def rows(
        self, relation: Relation, fields: Schema, key: str, within: tuple[int, int], size: int
    ) -> Iterator[tuple[pa.Table, Flaws]]:
        """The rows of a range, in the order of their key; all have the types of their columns."""
        numeric = {column.name for column in self._columns(relation) if _is_numeric(column)}
        wanted = ", ".join(
            f"{quoted(field.name)}::float8 AS {quoted(field.name)}" if field.name in numeric else quoted(field.name)
            for field in fields
        )
        first, stop = within
        name = quoted(key)
        statement = (
            f"SELECT {wanted} FROM {relation} AS relation WHERE {name} >= {first} AND {name} < {stop} ORDER BY {name}"
        )
        for batch in adbc.execute(self._connection, statement, self._name, **{_BATCH: str(size)}):
            yield pa.Table.from_batches([batch]), {}

    def _columns(self, relation: Relation) -> pa.Schema:
        return self._fetch(f"SELECT * FROM {relation} AS relation LIMIT 0").schema

    def _fetch(self, statement: str) -> pa.Table:
        return adbc.fetch(self._connection, statement, self._name)


def _is_numeric(column: pa.Field) -> bool:
    return (column.metadata or {}).get(b"ADBC:postgresql:typname") == _NUMERIC


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
