"""The three parts of a preparation: planning, writing pieces, committing. Each can be the work of another process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import DataError
from ganglion.data.dataset.manifest import Origin
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.preparation.advance import Paced, Tell
from ganglion.data.preparation.classes import check_classes, class_names
from ganglion.data.preparation.commit import commit
from ganglion.data.preparation.identity import preparation_key
from ganglion.data.preparation.piece import write_piece
from ganglion.data.preparation.plan import Plan, PlannedUnit, check_schema, cut, new_units, sizes_for, units_to_recover
from ganglion.data.preparation.staging import Order, Report, Staging
from ganglion.data.preparation.tally import makes_records
from ganglion.data.records.schema import describe
from ganglion.data.source import PlainSource, Source, source_data, source_from

Purpose = Literal["prepare", "grow", "replay"]

Run = Callable[[str, dict[str, Any]], Any]
"""Calls an entry (`module:function`) with plain keyword arguments, where it likes to, and returns its value."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        purpose: a new dataset, a new generation of what has come, or one of what could not be read before.
        base: the dataset that is added to.
        segment_bytes: largest size of the records of a segment; `None` for what suits the source.
        description: the source as plain data, before a snapshot was made of it.
    """

    description: dict[str, Any]
    purpose: Purpose = "prepare"
    base: Artifact | None = None
    segment_bytes: int | None = None


class Parts(Protocol):
    """Where the parts are carried out."""

    def plan(self, job: Job) -> Plan:
        """Look at the source."""
        ...

    def leave(self, plan: Plan) -> None:
        """Get ready for pieces of this plan to be written."""
        ...

    def write(self, plan: Plan, piece: int, memory: int, most_bad: int | None, tell: Tell) -> Report:
        """Read and write one piece."""
        ...

    def commit(self, plan: Plan) -> Artifact:
        """Make a dataset of the pieces."""
        ...


class Here:
    """In this process."""

    def __init__(self, source: Source, store: FolderStore) -> None:
        self._source = source
        self._store = store

    def plan(self, job: Job) -> Plan:
        """Look at the source."""
        return make_plan(job, self._source, self._store)

    def leave(self, plan: Plan) -> None:
        """Nothing has to be left: the plan is at hand."""

    def write(self, plan: Plan, piece: int, memory: int, most_bad: int | None, tell: Tell) -> Report:
        """Read and write one piece."""
        return write_piece(
            plan, plan.pieces[piece], self._source, self._store, memory=memory, most_bad=most_bad, tell=tell
        )

    def commit(self, plan: Plan) -> Artifact:
        """Make a dataset of the pieces."""
        return commit(plan, self._source, self._store)


class Elsewhere:
    """In processes that are given entries to call; the source travels as plain data, through the store.

    Args:
        source: has to be plain data.
        store: that the processes reach by the same path.
        run: calls an entry.
    """

    def __init__(self, source: Source, store: FolderStore, run: Run) -> None:
        self._store = FolderStore(store.root.absolute())
        self._sent = send_source(source, store)
        self._run = run

    def plan(self, job: Job) -> Plan:
        """Look at the source."""
        arguments = {"store": str(self._store.root), "source": self._sent, "job": msgspec.to_builtins(job)}
        return msgspec.json.decode(self._run(f"{__name__}:run_plan", arguments), type=Plan)

    def leave(self, plan: Plan) -> None:
        """Put the plan where the others find it."""
        Staging(self._store, plan.origin.key).write_order(Order(plan=plan, source=self._sent))

    def write(self, plan: Plan, piece: int, memory: int, most_bad: int | None, tell: Tell) -> Report:
        """Read and write one piece; the process leaves how far it is in the staging folder."""
        arguments = {"store": str(self._store.root), "key": plan.origin.key, "piece": piece}
        found = self._run(f"{__name__}:run_piece", {**arguments, "memory": memory, "most_bad": most_bad})
        return msgspec.json.decode(found, type=Report)

    def commit(self, plan: Plan) -> Artifact:
        """Make a dataset of the pieces."""
        found = self._run(f"{__name__}:run_commit", {"store": str(self._store.root), "key": plan.origin.key})
        return msgspec.convert(found, Artifact)


def run_plan(*, store: str, source: str, job: dict[str, Any]) -> bytes:
    """Entry: look at the source that lies in the store under this digest; returns the plan as JSON."""
    place = FolderStore(Path(store))
    return msgspec.json.encode(make_plan(msgspec.convert(job, Job), receive_source(place, source), place))


def run_piece(*, store: str, key: str, piece: int, memory: int, most_bad: int | None) -> bytes:
    """Entry: write one piece of a plan that was left in the store; returns the report as JSON."""
    place = FolderStore(Path(store))
    order = Staging(place, key).read_order()
    source = receive_source(place, order.source)
    tell = Paced(partial(Staging(place, key).note, piece))
    report = write_piece(
        order.plan, order.plan.pieces[piece], source, place, memory=memory, most_bad=most_bad, tell=tell
    )
    return msgspec.json.encode(report)


def run_commit(*, store: str, key: str) -> dict[str, Any]:
    """Entry: make a dataset of the pieces of a plan; returns the artifact as plain data."""
    place = FolderStore(Path(store))
    order = Staging(place, key).read_order()
    artifact = commit(order.plan, receive_source(place, order.source), place)
    return msgspec.to_builtins(artifact)  # type: ignore[no-any-return]  # a struct becomes a dictionary


def send_source(source: Source, store: FolderStore) -> str:
    """Put a source into the store, as plain data, for other processes; returns its digest.

    Raises:
        DataError: it is not plain data.
    """
    if not isinstance(source, PlainSource):
        raise DataError(
            f"A {type(source).__name__} cannot be sent to other processes; derive it from PlainSource, or do without "
            "them."
        )
    return store.put_bytes(msgspec.msgpack.encode(source_data(source)), "source").digest


def receive_source(store: FolderStore, digest: str) -> Source:
    """The source that `send_source` has put into the store."""
    return source_from(msgspec.msgpack.decode(store.read(digest)))


def make_plan(job: Job, source: Source, store: FolderStore) -> Plan:
    """Look at a source and say what has to be read of it.

    Raises:
        DataError: the source is missing, damaged, has no units or columns that cannot be written, or does not go with
            the dataset that is added to.
    """
    schema, units = source.schema, source.units()
    check_schema(schema)
    piece_bytes, segment_bytes = sizes_for(units)
    if job.segment_bytes is not None:
        if job.segment_bytes < 1:
            raise DataError(f"segment_bytes is {job.segment_bytes}; at least 1 is needed.")
        piece_bytes, segment_bytes = min(piece_bytes, job.segment_bytes), job.segment_bytes
    planned = tuple(PlannedUnit(unit=unit, number=unit.number) for unit in units)
    generation, classes = 0, class_names(source)
    if job.purpose == "replay" and makes_records(source):
        raise DataError(
            "Its transforms make new records of several, which cannot be added to; prepare the source anew."
        )
    if job.base is not None:
        manifest = PreparedDataset(job.base, store).manifest
        if set(schema) != set(manifest.schema):
            raise DataError(
                f"The source yields {describe(schema)}; the dataset has {describe(manifest.schema)}. What is added to "
                "a dataset needs its schema."
            )
        check_classes(manifest.classes, classes)
        schema, segment_bytes, generation = manifest.schema, manifest.segment_bytes, len(manifest.origins)
        planned = (new_units if job.purpose == "grow" else units_to_recover)(manifest, units)
    fingerprint = source.fingerprint()
    key = preparation_key(source, fingerprint, job.purpose, job.base.digest if job.base else "", job.segment_bytes)
    origin = Origin(fingerprint=fingerprint, key=key, description=job.description)
    return Plan(
        schema=schema,
        segment_bytes=segment_bytes,
        pieces=cut(planned, piece_bytes),
        origin=origin,
        base=job.base,
        generation=generation,
        classes=classes,
    )
