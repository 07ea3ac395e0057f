"""The tables of the record.

Times are wall seconds since the epoch. Every row that belongs to a run goes with it. A change here needs a migration
in `migrations/versions` and its name at the end of `REVISIONS`.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

REVISIONS = ("0001",)
"""Every schema there has been, oldest first."""


class PlainData(TypeDecorator[Any]):
    """Plain data as JSON text; other than in JSON proper, numbers that are not finite are kept."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Write JSON."""
        return json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=False)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Read JSON."""
        return None if value is None else json.loads(value)


class Number(TypeDecorator[float]):
    """A number that may be NaN, which is kept as NULL because SQLite has no other way."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """NaN becomes NULL."""
        return None if value is None or value != value else value

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        """NULL becomes NaN."""
        return float("nan") if value is None else value


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _run_key() -> Column[str]:
    return Column("run", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)


runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("seed", PlainData, nullable=False),  # may exceed 64 bits
    Column("parameters", PlainData, nullable=False),
    Column("graph", PlainData, nullable=False),
    Column("environment", PlainData, nullable=False),
    Index(None, "started_at"),
)

steps = Table(
    "steps",
    metadata,
    _run_key(),
    Column("name", Text, primary_key=True),
    Column("position", Integer),  # in the graph; NULL for a step that came about at run time
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("fingerprint", Text),
    Column("cache", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("traceback", Text),
    Column("result", PlainData, nullable=False),
    Column("metrics", PlainData, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    _run_key(),
    Column("step", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("message", Text, nullable=False),
    Column("traceback", Text),
)

metrics = Table(
    "metrics",
    metadata,
    _run_key(),
    Column("event", LargeBinary, primary_key=True),  # key of the event, as in applied_events
    Column("at", Double, nullable=False),
    Column("step", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Number),
    Column("position", Double),
    Index(None, "run", "step", "name", "at"),
)

resource_samples = Table(
    "resource_samples",
    metadata,
    _run_key(),
    Column("event", LargeBinary, primary_key=True),
    Column("at", Double, nullable=False),
    Column("step", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("cpu_seconds", Double, nullable=False),
    Column("memory", BigInteger, nullable=False),
    Index(None, "run", "step", "at"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
)

artifact_uses = Table(
    "artifact_uses",
    metadata,
    _run_key(),
    Column("step", Text, primary_key=True),
    Column("direction", Text, primary_key=True),  # input or output
    Column("digest", Text, ForeignKey("artifacts.digest"), primary_key=True),
    Index(None, "digest"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("run", Text, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("step", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("published_at", Double, nullable=False),
    Column("metrics", PlainData, nullable=False),
    Index(None, "run"),
    Index(None, "digest"),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("run", Text, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Index(None, "run"),
)

applied_events = Table(
    "applied_events",
    metadata,
    _run_key(),
    Column("event", LargeBinary, primary_key=True),  # key of an event that needs no second application
)
