"""From an artifact back to what it was made from, and forward to what was made from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from sqlalchemy import Connection, select, tuple_

from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import ArtifactReference
from ganglion.metadata import schema
from ganglion.metadata.database import reading
from ganglion.metadata.queries import artifact_reference, published_models
from ganglion.metadata.record import Record
from ganglion.metadata.views import Lineage, LineageStep

_Direction = Literal["input", "output"]
_Key = tuple[str, str]  # run and step


def upstream(record: Record, digest: str) -> Lineage:
    """The steps and artifacts that the artifact was made from, back to the first.

    Raises:
        NotFoundError: the record has never seen the artifact.
    """
    return _follow(record, digest, enter="output")


def downstream(record: Record, digest: str) -> Lineage:
    """The steps that used the artifact, what they made of it, and so on to the last.

    Raises:
        NotFoundError: the record has never seen the artifact.
    """
    return _follow(record, digest, enter="input")


def artifact_references(record: Record) -> frozenset[str]:
    """Digests of everything that a run or a model version of the record refers to."""
    with reading(record.engine) as connection:
        return frozenset(connection.scalars(select(schema.artifact_uses.c.digest).distinct()))


def _follow(record: Record, digest: str, enter: _Direction) -> Lineage:
    """Walk breadth first: enter steps through artifacts on one side, leave them through those on the other."""
    with reading(record.engine) as connection:
        if not _artifacts(connection, [digest]):
            raise NotFoundError(f"The record knows no artifact {digest!r}; give the whole digest, sha256:...")
        seen: dict[str, None] = {digest: None}
        steps: dict[_Key, LineageStep] = {}
        frontier = [digest]
        while frontier:
            entered = [key for key in _steps_with(connection, frontier, enter) if key not in steps]
            steps.update(_described(connection, entered))
            left = (
                artifact.digest
                for key in entered
                for artifact in (steps[key].inputs if enter == "output" else steps[key].outputs)
            )
            frontier = list(dict.fromkeys(left))
            seen.update(dict.fromkeys(frontier))
        models = published_models(connection, schema.model_versions.c.digest.in_(seen))
        return Lineage(
            digest=digest,
            steps=tuple(steps.values()),
            artifacts=_artifacts(connection, list(seen)[1:]),
            models=models,
        )


def _steps_with(connection: Connection, digests: Collection[str], direction: _Direction) -> list[_Key]:
    """Steps that have one of `digests` on this side; a published package is an output of the publishing step."""
    uses = schema.artifact_uses
    query = select(uses.c.run, uses.c.step).where(uses.c.direction == direction, uses.c.digest.in_(digests))
    return [(run, step) for run, step in connection.execute(query.distinct().order_by(uses.c.run, uses.c.step))]


def _described(connection: Connection, keys: Iterable[_Key]) -> dict[_Key, LineageStep]:
    uses, artifacts, steps = schema.artifact_uses, schema.artifacts, schema.steps
    wanted = list(keys)
    states = {
        (row.run, row.name): row.state
        for row in connection.execute(
            select(steps.c.run, steps.c.name, steps.c.state).where(tuple_(steps.c.run, steps.c.name).in_(wanted))
        )
    }
    sides: dict[tuple[_Key, str], list[ArtifactReference]] = {}
    query = (
        select(uses.c.run, uses.c.step, uses.c.direction, artifacts)
        .join(artifacts)
        .where(tuple_(uses.c.run, uses.c.step).in_(wanted))
        .order_by(uses.c.digest)
    )
    for row in connection.execute(query):
        sides.setdefault(((row.run, row.step), row.direction), []).append(artifact_reference(row))
    return {
        key: LineageStep(
            run=key[0],
            step=key[1],
            state=states.get(key, ""),
            inputs=tuple(sides.get((key, "input"), ())),
            outputs=tuple(sides.get((key, "output"), ())),
        )
        for key in wanted
    }


def _artifacts(connection: Connection, digests: list[str]) -> tuple[ArtifactReference, ...]:
    table = schema.artifacts
    found = {row.digest: row for row in connection.execute(select(table).where(table.c.digest.in_(digests)))}
    return tuple(artifact_reference(found[digest]) for digest in digests if digest in found)
