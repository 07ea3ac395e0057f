"""Sources as they are named on the command line: files, folders, patterns, addresses, databases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ganglion.core.config import convert, parse_override
from ganglion.core.errors import ConfigurationError, UserError
from ganglion.core.registry import add_to_path

if TYPE_CHECKING:
    from ganglion.data import PlainSource
    from ganglion.data.transform import Transform

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Files, folders, patterns in quotes, http:// or s3:// addresses, or one sqlite:/// or postgresql:// one.",
    ),
]
Format = Annotated[str | None, typer.Option(help="Format of the files; without it the endings of their names say it.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="A field of the source, such as size=[32,32] or delimiter=';'."),
]
Table = Annotated[str, typer.Option(help="Table of a database.")]
Query = Annotated[str, typer.Option(help="SELECT whose rows are wanted, in place of a table.")]
Key = Annotated[str, typer.Option(help="Column of unique integers by which rows are divided and ordered.")]
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="MODULE:FUNCTION", help="Columns become what the function returns for them."),
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="MODULE:FUNCTION", help="Only records are kept for which it returns true."),
]
Limit = Annotated[int | None, typer.Option(help="Take only this many records.", min=1)]

DATABASES = ("sqlite:", "postgresql:", "postgres:", "env:")
"""How the address of a database begins; `env:NAME` says in which variable it is."""


class SourceChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of a source.

    Attributes:
        paths: files, folders, patterns and addresses, or the address of one database.
        format: of the files.
        options: texts `key=value`, for fields of the source.
        table: of a database.
        query: of a database.
        key: of a database.
        filters: import paths of functions, applied to what the source yields.
        maps: import paths of functions, applied to what the filters leave.
        limit: records wanted of the source, before filters.
    """

    paths: Sequence[str]
    format: str | None = None
    options: Sequence[str] | None = None
    table: str = ""
    query: str = ""
    key: str = ""
    filters: Sequence[str] | None = None
    maps: Sequence[str] | None = None
    limit: int | None = None

    @property
    def changes(self) -> list[str]:
        """The options that say how a source is read, as they are written."""
        given = (
            ("--format", self.format), ("--option", self.options), ("--table", self.table), ("--query", self.query),
            ("--key", self.key), ("--filter", self.filters), ("--map", self.maps), ("--limit", self.limit),
        )  # fmt: skip
        return [name for name, value in given if value]

    def open(self) -> PlainSource:
        """The source; files of this machine by their absolute paths, so that it is the same from every folder.

        Raises:
            UserError: something that was said does not fit; the message says what does.
        """
        from ganglion.data import limit
        from ganglion.data.sources.transformed import TransformedSource

        source = limit(self._read(), self.limit)
        transforms = self._transforms()
        return TransformedSource(source=source, transforms=transforms) if transforms else source

    def _read(self) -> PlainSource:
        from ganglion.data import open_source

        options = _fields(self.options or ())
        if any(path.startswith(DATABASES) for path in self.paths):
            return self._rows(options)
        if given := [name for name in ("table", "query", "key") if getattr(self, name)]:
            raise UserError(f"--{given[0]} is for databases (sqlite:///, postgresql://); {self.paths[0]} is none.")
        return open_source(tuple(map(_absolute, self.paths)), format=self.format, **options)

    def _rows(self, options: dict[str, Any]) -> PlainSource:
        from ganglion.data.sources.sql import SqlSource

        if len(self.paths) > 1 or self.format:
            raise UserError("A database is a source of its own: give its address alone, and no --format.")
        if not self.key or bool(self.table) == bool(self.query):
            raise UserError(
                f"{self.paths[0]} is a database: say what to read with --table NAME or --query SELECT, and with "
                "--key COLUMN which column of unique integers divides the rows."
            )
        database = self.paths[0]
        if database.startswith("sqlite:///"):
            database = f"sqlite:///{Path(database.removeprefix('sqlite:///')).absolute()}"
        said = {"database": database, "table": self.table, "query": self.query, "key": self.key}
        return convert(SqlSource, {**options, **said}, where=SqlSource.__name__)

    def _transforms(self) -> tuple[Transform, ...]:
        if not (self.filters or self.maps):
            return ()
        from ganglion.data.transforms import Filter, Map

        add_to_path((str(Path.cwd()),))
        filters = [Filter(function=path) for path in self.filters or ()]
        maps = [Map(function=path) for path in self.maps or ()]
        return (*filters, *maps)


def _fields(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        path, value = parse_override(text)
        if len(path) > 1 or path[0] == "paths":
            raise ConfigurationError(f"--option {text!r}: the name of a field of the source is needed before the '='.")
        found[path[0]] = value
    return found


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path) + "/" * path.endswith("/")
