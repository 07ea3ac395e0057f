"""Questions about runs: lists, details, series and published models.

Wherever a run is asked for, a prefix of its id will do as long as no other id begins with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select

from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import ArtifactReference
from ganglion.metadata import schema
from ganglion.metadata.database import reading
from ganglion.metadata.record import Record
from ganglion.metadata.views import (
    Attempt,
    MetricPoint,
    ModelVersionInfo,
    ResourcePoint,
    RunDetail,
    RunSummary,
    StepDetail,
)

_SHOWN = 5
"""How many ids an error message lists at most."""


def runs(
    record: Record, *, limit: int | None = 50, pipeline: str | None = None, state: str | None = None
) -> tuple[RunSummary, ...]:
    """The latest runs, newest first.

    Args:
        record: where to look.
        limit: at most so many; `None` for all.
        pipeline: only runs of this pipeline.
        state: only runs in this state.
    """
    table = schema.runs
    query = select(table).order_by(table.c.started_at.desc(), table.c.id.desc()).limit(limit)
    if pipeline is not None:
        query = query.where(table.c.pipeline == pipeline)
    if state is not None:
        query = query.where(table.c.state == state)
    with reading(record.engine) as connection:
        found = connection.execute(query).all()
        counts = _step_counts(connection, [row.id for row in found])
    return tuple(
        RunSummary(
            id=row.id,
            pipeline=row.pipeline,
            state=row.state,
            start=row.started_at,
            end=row.finished_at,
            message=row.message,
            steps=counts.get(row.id, {}),
        )
        for row in found
    )


def run(record: Record, id: str) -> RunDetail:
    """Everything about one run but its series.

    Raises:
        NotFoundError: no id, or more than one, begins with `id`.
    """
    table = schema.runs
    with reading(record.engine) as connection:
        row = connection.execute(select(table).where(table.c.id == resolve_run(connection, id))).one()
        return RunDetail(
            id=row.id,
            pipeline=row.pipeline,
            state=row.state,
            start=row.started_at,
            end=row.finished_at,
            message=row.message,
            seed=row.seed,
            parameters=row.parameters,
            environment=row.environment,
            graph=row.graph,
            steps=_steps(connection, row.id),
            models=published_models(connection, schema.model_versions.c.run == row.id),
        )


def metrics(record: Record, run: str, *, step: str | None = None, name: str | None = None) -> tuple[MetricPoint, ...]:
    """Values of metrics over time, oldest first.

    Args:
        record: where to look.
        run: id of the run.
        step: only of this step.
        name: only of this metric.

    Raises:
        NotFoundError: no id, or more than one, begins with `run`.
    """
    table = schema.metrics
    query = select(table).order_by(table.c.at, table.c.step, table.c.member, table.c.name, table.c.event)
    if step is not None:
        query = query.where(table.c.step == step)
    if name is not None:
        query = query.where(table.c.name == name)
    with reading(record.engine) as connection:
        found = connection.execute(query.where(table.c.run == resolve_run(connection, run))).all()
    return tuple(
        MetricPoint(at=row.at, step=row.step, member=row.member, name=row.name, value=row.value, position=row.position)
        for row in found
    )


def resources(record: Record, run: str, *, step: str | None = None) -> tuple[ResourcePoint, ...]:
    """What processes used over time, oldest first.

    Args:
        record: where to look.
        run: id of the run.
        step: only of this step.

    Raises:
        NotFoundError: no id, or more than one, begins with `run`.
    """
    table = schema.resource_samples
    query = select(table).order_by(table.c.at, table.c.step, table.c.member, table.c.event)
    if step is not None:
        query = query.where(table.c.step == step)
    with reading(record.engine) as connection:
        found = connection.execute(query.where(table.c.run == resolve_run(connection, run))).all()
    return tuple(
        ResourcePoint(at=row.at, step=row.step, member=row.member, cpu_seconds=row.cpu_seconds, memory=row.memory)
        for row in found
    )


def model_versions(record: Record, name: str | None = None) -> tuple[ModelVersionInfo, ...]:
    """Published versions by name of the model, the newest version of each first.

    Args:
        record: where to look.
        name: only of this model.
    """
    conditions = [] if name is None else [schema.model_versions.c.model == name]
    with reading(record.engine) as connection:
        return published_models(connection, *conditions)


def resolve_run(connection: Connection, id: str) -> str:
    """The full id of the run whose id is, or alone begins with, `id`.

    Raises:
        NotFoundError: there is none, or there are several; the message names the nearest.
    """
    column = schema.runs.c.id
    if connection.scalar(select(column).where(column == id)) is not None:
        return id
    # not LIKE, which ignores case in some databases
    starting = select(column).where(func.substr(column, 1, len(id)) == id).order_by(column.desc())
    found: Sequence[str] = connection.scalars(starting.limit(_SHOWN + 1)).all() if id else []
    if len(found) == 1:
        return found[0]
    if found:
        more = ", ..." if len(found) > _SHOWN else ""
        raise NotFoundError(
            f"More than one run begins with {id!r}: {', '.join(found[:_SHOWN])}{more}. Write more of it."
        )
    every = connection.scalars(select(column)).all()
    near = difflib.get_close_matches(id, every, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise NotFoundError(f"There is no run {id!r} among the {len(every)} of the record.{hint}")


def published_models(connection: Connection, *conditions: Any) -> tuple[ModelVersionInfo, ...]:
    """Model versions that meet all `conditions`, by name of the model, the newest version of each first."""
    table, aliases = schema.model_versions, schema.model_aliases
    names: dict[tuple[str, int], list[str]] = {}
    for row in connection.execute(select(aliases).order_by(aliases.c.alias)):
        names.setdefault((row.model, row.version), []).append(row.alias)
    found = connection.execute(select(table).where(*conditions).order_by(table.c.model, table.c.version.desc()))
    return tuple(
        ModelVersionInfo(
            model=row.model,
            version=row.version,
            aliases=tuple(names.get((row.model, row.version), ())),
            digest=row.digest,
            metrics=row.metrics,
            run=row.run,
            step=row.step,
            published=row.published_at,
        )
        for row in found
    )


def _step_counts(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    steps = schema.steps
    counted = (
        select(steps.c.run, steps.c.state, func.count().label("count"))
        .where(steps.c.run.in_(run_ids))
        .group_by(steps.c.run, steps.c.state)
        .order_by(steps.c.state)
    )
    counts: dict[str, dict[str, int]] = {}
    for run_id, state, count in connection.execute(counted):
        counts.setdefault(run_id, {})[state] = count
    return counts


def _steps(connection: Connection, run_id: str) -> tuple[StepDetail, ...]:
    table = schema.steps
    found = connection.execute(
        select(table)
        .where(table.c.run == run_id)
        .order_by(table.c.position.is_(None), table.c.position, table.c.started_at, table.c.name)
    ).all()
    tries = _attempts(connection, run_id)
    uses = _uses(connection, run_id)
    reported = _last_metrics(connection, run_id)
    return tuple(
        StepDetail(
            name=row.name,
            kind=row.kind,
            state=row.state,
            start=row.started_at,
            end=row.finished_at,
            attempts=tuple(tries.get(row.name, ())),
            fingerprint=row.fingerprint,
            cache=row.cache,
            metrics=row.metrics or (reported.get(row.name, {}) if row.state == "running" else {}),
            result=row.result,
            inputs=tuple(uses.get((row.name, "input"), ())),
            outputs=tuple(uses.get((row.name, "output"), ())),
            message=row.message,
            traceback=row.traceback,
        )
        for row in found
    )


def _attempts(connection: Connection, run_id: str) -> dict[str, list[Attempt]]:
    table = schema.attempts
    found: dict[str, list[Attempt]] = {}
    for row in connection.execute(select(table).where(table.c.run == run_id).order_by(table.c.attempt)):
        found.setdefault(row.step, []).append(
            Attempt(
                attempt=row.attempt,
                state=row.state,
                start=row.started_at,
                end=row.finished_at,
                message=row.message,
                traceback=row.traceback,
            )
        )
    return found


def _uses(connection: Connection, run_id: str) -> dict[tuple[str, str], list[ArtifactReference]]:
    uses, artifacts = schema.artifact_uses, schema.artifacts
    query = (
        select(uses.c.step, uses.c.direction, artifacts)
        .join(artifacts)
        .where(uses.c.run == run_id)
        .order_by(uses.c.digest)
    )
    found: dict[tuple[str, str], list[ArtifactReference]] = {}
    for row in connection.execute(query):
        found.setdefault((row.step, row.direction), []).append(artifact_reference(row))
    return found


def artifact_reference(row: Row[Any]) -> ArtifactReference:
    """The artifact of a row that has the columns of `artifacts`."""
    return ArtifactReference(digest=row.digest, kind=row.kind, size=row.size)


def _last_metrics(connection: Connection, run_id: str) -> dict[str, dict[str, float]]:
    """The last value of every metric of the steps that run, since their attempts began."""
    points, steps = schema.metrics, schema.steps
    query = (
        select(points.c.step, points.c.name, points.c.value)
        .join(steps, (steps.c.run == points.c.run) & (steps.c.name == points.c.step))
        .where(points.c.run == run_id, steps.c.state == "running", points.c.at >= steps.c.started_at)
        .order_by(points.c.at, points.c.member.desc(), points.c.event)
    )
    found: dict[str, dict[str, float]] = {}
    for step, name, value in connection.execute(query):
        found.setdefault(step, {})[name] = value
    return found
