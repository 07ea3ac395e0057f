"""The writing side of the record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from sqlalchemy import Connection, Engine, delete, select

from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import AnyRunEvent, MetricReported, ResourcesSampled
from ganglion.metadata.database import insert_missing, open_database, writing
from ganglion.metadata.projection import Transition, ensure_run, metric_row, project, sample_row
from ganglion.metadata.schema import applied_events, artifact_uses, artifacts, metrics, resource_samples, runs


class Record:
    """A database that follows the journals of runs.

    Any number of threads and processes may use one record at the same time. Within a run the events have to come in
    the order of its journal; an event that was applied before, by whomever, changes nothing, so that a journal may be
    applied again from its beginning at any time.

    Args:
        engine: an open, current database; `Record.open` makes one.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, target: str | Path) -> Self:
        """Open the record at a path or `sqlite:///PATH`, creating it or bringing it up to date where needed.

        Raises:
            ConfigurationError: the address is of another kind, the file cannot be opened or is no record, or a newer
                version has written it.
        """
        return cls(open_database(target))

    def apply(self, event: AnyRunEvent) -> None:
        """Take in one event."""
        self.apply_all((event,))

    def apply_all(self, events: Iterable[AnyRunEvent]) -> None:
        """Take in events, in order, in one transaction: all of them or, when an error is raised, none."""
        keyed = [_with_key(event) for event in events]
        with writing(self.engine) as connection:
            for event in {event.run: event for event, _ in reversed(keyed)}.values():
                ensure_run(connection, event)
            _add_series(connection, keyed)
            for event, key in keyed:
                if isinstance(event, Transition) and _is_new(connection, event, key):
                    project(connection, event)

    def delete_run(self, run: str) -> None:
        """Forget a run: its steps, series, uses of artifacts and the model versions it published.

        Raises:
            NotFoundError: there is no run of exactly this id.
        """
        with writing(self.engine) as connection:
            if not connection.execute(delete(runs).where(runs.c.id == run)).rowcount:
                raise NotFoundError(f"There is no run {run!r} in the record.")
            connection.execute(delete(artifacts).where(artifacts.c.digest.not_in(select(artifact_uses.c.digest))))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _with_key(event: AnyRunEvent) -> tuple[AnyRunEvent, bytes]:
    """The event as a journal gives it back (1 becomes 1.0 where a float is declared), and what tells it from others."""
    read_back = msgspec.convert(msgspec.to_builtins(event), type(event))
    return read_back, hashlib.blake2b(msgspec.json.encode(read_back), digest_size=16).digest()


def _is_new(connection: Connection, event: AnyRunEvent, key: bytes) -> bool:
    return connection.execute(insert_missing(applied_events).values(run=event.run, event=key)).rowcount == 1


def _add_series(connection: Connection, keyed: list[tuple[AnyRunEvent, bytes]]) -> None:
    points = [metric_row(event, key) for event, key in keyed if isinstance(event, MetricReported)]
    samples = [sample_row(event, key) for event, key in keyed if isinstance(event, ResourcesSampled)]
    if points:
        connection.execute(insert_missing(metrics), points)
    if samples:
        connection.execute(insert_missing(resource_samples), samples)
