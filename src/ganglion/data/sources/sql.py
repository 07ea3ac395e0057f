"""Rows of a database, PostgreSQL or SQLite, read in parallel by ranges of a key.

Rows are divided by the values of an integer key, never by OFFSET, which would count rows again and lose or repeat some
when others come and go. Inside `snapshot` all readers, also those in other processes, see the rows as they were when
it was taken. Passwords stay out of the source, which is plain data that is written down: the database is named by a
variable of the environment, or the password is where the database's own tools look for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.files.retry import Retry
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Schema, records_within
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource
from ganglion.data.sources.arrow_columns import Flaws, columns_of
from ganglion.data.sources.file_source import check_required
from ganglion.data.sources.sql_database import Database, Relation, open_database

if TYPE_CHECKING:
    import pyarrow as pa

_VARIABLE = "env:"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)?")


class SqlSource(PlainSource, frozen=True, tag="ganglion.data.sources.sql:SqlSource"):
    """The rows of a table or of a query, in the order of a key.

    Attributes:
        database: `postgresql://user@host:port/name`, `sqlite:///file` (four slashes for a path from the root), or
            `env:NAME`, which is looked up in the environment of whoever reads.
        key: column of integers that is different in every row and never missing.
        table: what is read, `name` or `schema.name`; or else
        query: a SELECT whose result is read.
        columns: those wanted, in order; all by default.
        required: fields of floating point in which a missing value makes a record bad.
        unit_records: rows in a unit.
        at: the snapshot that is read, as `snapshot` fills it in; empty for the rows as they are at each read.
        retry: how long a database that is away is waited for.

    Raises:
        DataError: an argument is not what it should be, or holds a password.
    """

    database: str
    key: str
    table: str = ""
    query: str = ""
    columns: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    unit_records: int = 100_000
    at: str = ""
    retry: Retry = msgspec.field(default_factory=Retry)

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.query):
            raise DataError("A SQL source reads either a table or a query; give one of them.")
        if self.table and not _NAME.fullmatch(self.table):
            raise DataError(f"The table {self.table!r} was given; a name, or schema.name, is needed. Else use query=.")
        if self.unit_records < 1:
            raise DataError(f"unit_records={self.unit_records}: at least 1 is needed.")
        if not self.database.startswith(_VARIABLE) and _has_password(self.database):
            raise DataError(
                "The address of the database holds a password, which would be written into manifests and records. "
                "Put the address into a variable of the environment and give database='env:NAME', or keep the "
                "password in PGPASSWORD or ~/.pgpass."
            )

    @property
    def schema(self) -> Schema:
        """A field for each column that is wanted."""
        with self._database().session(self.at) as session:
            return self._chosen(session.fields(self._relation))

    def _chosen(self, known: Schema) -> Schema:
        """The columns wanted of those that there are."""
        fields = {field.name: field for field in known}
        for name in (self.key, *self.columns):
            if name not in fields:
                raise DataError(f"{self._name} has no column {name!r}; it has {', '.join(fields) or 'none'}.")
        chosen = tuple(fields[name] for name in self.columns) or known
        check_required(chosen, self.required)
        return chosen

    def units(self) -> Sequence[Unit]:
        """Ranges of the key with `unit_records` rows each, the last with fewer; every row is looked at once."""
        with self._database().session(self.at) as session:
            width = sum(field.record_bytes for field in self._chosen(session.fields(self._relation)))
            ranges = session.ranges(self._relation, self.key, self.unit_records)
        return tuple(
            Unit(
                number=number,
                name=f"{self._name}, {self.key} {found.first} to {found.last}",
                start=found.first,
                stop=found.last + 1,
                size=found.records * width,
                records=found.records,
                fingerprint=found.fingerprint,
            )
            for number, found in enumerate(ranges)
        )

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The rows whose key is in the range of the unit, in the order of the key."""
        first, last = 0, unit.start - 1
        with self._database().session(self.at) as session:
            known = session.fields(self._relation)
            schema = self._chosen(known)
            rows = records_within(schema, size)
            names = {self.key, *(field.name for field in schema)}
            fields = tuple(field for field in known if field.name in names)
            for table, flaws in session.rows(self._relation, fields, self.key, (unit.start, unit.stop), size):
                last = self._check_key(table, last)
                batch = self._batch(table, flaws, schema, unit, first, set_aside)
                first += table.num_rows
                for begin in range(0, len(batch), rows):
                    yield batch.part(begin, min(begin + rows, len(batch)))

    def fingerprint(self) -> str:
        """Digest of the rows and of what is read of them; the database's address does not matter."""
        options = (self.table, self.query, self.key, self.required, self.unit_records)
        return digest_of(msgspec.json.encode((options, self.schema, [unit.fingerprint for unit in self.units()])))

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """The source as it is now, for as long as the context lasts, whatever others write meanwhile.

        Raises:
            OutageError: the database is away.
        """
        if self.at:
            yield self
            return
        with self._database().snapshot() as at:
            yield msgspec.structs.replace(self, at=at)

    def _batch(
        self, table: pa.Table, flaws: Flaws, schema: Schema, unit: Unit, first: int, set_aside: SetAside
    ) -> Batch:
        columns, more = columns_of(table, schema, self.required)
        flaws = more | flaws
        for row, reason in sorted(flaws.items()):
            values = table.slice(row, 1).to_pylist()[0]
            found = f"{self.key} {values[self.key]}: {reason}"
            set_aside(BadRecord.at(unit, first + row, found, payload=repr(values).encode()))
        batch = Batch(columns, unit.ids(first, first + table.num_rows))
        if not flaws:
            return batch
        return batch.take(np.setdiff1d(np.arange(table.num_rows), np.array(list(flaws))))

    def _check_key(self, table: pa.Table, last: int) -> int:
        """The last key of some rows, once it is certain that each is larger than the one before it."""
        if not table.num_rows:
            return last
        keys = table.column(self.key).to_numpy()
        if int(keys[0]) <= last or np.any(keys[1:] <= keys[:-1]):
            raise DataError(
                f"The key {self.key!r} of {self._name} is the same in several rows, so that they have no order. "
                "Use a column that is unique, such as the primary key."
            )
        return int(keys[-1])

    def _database(self) -> Database:
        return open_database(self._address(), self.retry)

    def _address(self) -> str:
        if not self.database.startswith(_VARIABLE):
            return self.database
        name = self.database.removeprefix(_VARIABLE)
        if not (address := os.environ.get(name)):
            raise DataError(f"The database is to be found in the variable {name}, which is not set.")
        return address

    @property
    def _relation(self) -> Relation:
        return Relation(table=self.table, query=self.query)

    @property
    def _name(self) -> str:
        return self.table or "the query"


def _has_password(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.password is not None or "password=" in address
    except ValueError:
        return False
