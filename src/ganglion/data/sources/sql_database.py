"""The seam for databases: sessions that answer what a SQL source asks, and snapshots that several sessions share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import msgspec

from ganglion.core.errors import DataError
from ganglion.core.registry import load_object
from ganglion.data.files.retry import Retry
from ganglion.data.records.schema import Schema
from ganglion.data.sources.arrow_columns import Flaws

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS = {
    "postgresql": "ganglion.data.sources.postgresql:PostgresqlDatabase",
    "postgres": "ganglion.data.sources.postgresql:PostgresqlDatabase",
    "sqlite": "ganglion.data.sources.sqlite:SqliteDatabase",
}


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """A table or a query.

    Attributes:
        table: `name` or `schema.name`.
        query: a SELECT, where there is no table.
    """

    table: str = ""
    query: str = ""

    def __str__(self) -> str:
        return ".".join(map(quoted, self.table.split("."))) if self.table else f"({self.query.rstrip().rstrip(';')})"


class KeyRange(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows that follow each other in the order of their key.

    Attributes:
        first: the smallest key.
        last: the largest key.
        records: number of rows.
        fingerprint: changes with any value in them.
    """

    first: int
    last: int
    records: int
    fingerprint: str


class Session(Protocol):
    """A connection that sees one state of the database."""

    def fields(self, relation: Relation) -> Schema:
        """The columns, as fields.

        Raises:
            DataError: there is no such relation, or a column holds what records cannot.
        """
        ...

    def ranges(self, relation: Relation, key: str, records: int) -> list[KeyRange]:
        """Divide the rows into ranges of the key with `records` rows each.

        Raises:
            DataError: the key is not an integer, or is missing in a row.
        """
        ...

    def rows(
        self, relation: Relation, fields: Schema, key: str, within: tuple[int, int], size: int
    ) -> Iterator[tuple[pa.Table, Flaws]]:
        """Some rows, in the order of their key.

        Args:
            relation: where they are.
            fields: the columns wanted, as `fields` gave them.
            key: the column by which they are chosen.
            within: the smallest key, and the one after the largest.
            size: bytes that are read at a time, about.

        Returns:
            The rows, each time with what is wrong with some of them.

        Raises:
            DataError: the database cannot read them.
            OutageError: it went away.
        """
        ...


class Database(Protocol):
    """A database that can be reached."""

    def session(self, at: str) -> AbstractContextManager[Session]:
        """Connect, to see the snapshot `at`, or, if that is empty, the state at the time of connecting.

        Raises:
            DataError: it refuses, or the snapshot is gone.
            OutageError: it is away.
        """
        ...

    def snapshot(self) -> AbstractContextManager[str]:
        """Keep the present state visible, to sessions of any process, by the name that is given."""
        ...


def open_database(address: str, retry: Retry) -> Database:
    """The database at an address; nothing is connected yet.

    Raises:
        DataError: databases of this kind are not known, or their driver is not installed.
    """
    kind = address.partition("://")[0]
    if kind not in _KINDS or "://" not in address:
        raise DataError("The database's address begins with neither postgresql:// nor sqlite:///; these are possible.")
    try:
        found: type[Database] = load_object(_KINDS[kind])
    except ImportError as error:
        raise DataError(f"{kind} databases need more packages ({error}): pip install 'ganglion[sql]'.") from error
    return found(address, retry)  # type: ignore[call-arg]  # a protocol says nothing of how it is made


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
