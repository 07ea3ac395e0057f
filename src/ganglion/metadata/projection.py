"""What each event of a run changes in the tables.

A row of `steps` is the view of its latest attempt: a new attempt begins it afresh, and what an earlier attempt still
says is kept in `attempts` only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, update
from sqlalchemy.sql.dml import Update

from ganglion.core.run_events import (
    AnyRunEvent,
    ArtifactReference,
    MetricReported,
    ModelPublished,
    ResourcesSampled,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    StepUpdated,
)
from ganglion.metadata.database import insert_missing
from ganglion.metadata.schema import (
    artifact_uses,
    artifacts,
    attempts,
    model_aliases,
    model_versions,
    runs,
    steps,
)

Transition = RunStarted | StepStarted | StepFinished | StepUpdated | ModelPublished | RunFinished
"""Events whose order matters; the others are points of a series."""

_NEW_STEP: dict[str, Any] = {
    "kind": "",
    "state": "pending",
    "attempt": 0,
    "cache": "",
    "message": "",
    "traceback": None,
    "result": None,
    "metrics": {},
}


def ensure_run(connection: Connection, event: AnyRunEvent) -> None:
    """Make sure that the event's run has a row, also when the run was deleted while it went on."""
    connection.execute(
        insert_missing(runs).values(
            id=event.run,
            pipeline="",
            state="running",
            message="",
            started_at=event.at,
            seed=0,
            parameters={},
            graph=[],
            environment={},
        )
    )


def project(connection: Connection, event: Transition) -> None:
    """Change the tables as `event` says; its run has a row and the event was not projected before."""
    match event:
        case RunStarted():
            _run_started(connection, event)
        case StepStarted():
            _step_started(connection, event)
        case StepFinished():
            _step_finished(connection, event)
        case StepUpdated():
            _ensure_step(connection, event)
            connection.execute(_update_step(event).values(result=event.result))
        case ModelPublished():
            _model_published(connection, event)
        case RunFinished():
            connection.execute(
                update(runs)
                .where(runs.c.id == event.run)
                .values(state=event.state, message=event.message, finished_at=event.at)
            )


def metric_row(event: MetricReported, key: bytes) -> dict[str, object]:
    """The row of one value of a metric."""
    return {
        "run": event.run,
        "event": key,
        "at": event.at,
        "step": event.step,
        "member": event.member,
        "name": event.name,
        "value": event.value,
        "position": event.position,
    }


def sample_row(event: ResourcesSampled, key: bytes) -> dict[str, object]:
    """The row of one sample of what a process uses."""
    return {
        "run": event.run,
        "event": key,
        "at": event.at,
        "step": event.step,
        "member": event.member,
        "cpu_seconds": event.cpu_seconds,
        "memory": event.memory,
    }


def _run_started(connection: Connection, event: RunStarted) -> None:
    connection.execute(
        update(runs)
        .where(runs.c.id == event.run)
        .values(
            pipeline=event.pipeline,
            state="running",
            message="",
            finished_at=None,
            seed=event.seed,
            parameters=event.parameters,
            graph=event.graph,
            environment=event.environment,
        )
    )
    for position, node in enumerate(event.graph):
        place = {"position": position, "kind": node.get("kind", "")}
        connection.execute(insert_missing(steps).values(**_NEW_STEP, run=event.run, name=node["step"]))
        connection.execute(update(steps).where(steps.c.run == event.run, steps.c.name == node["step"]).values(**place))
    if event.resumed:
        _lose_attempts(connection, event)


def _lose_attempts(connection: Connection, event: RunStarted) -> None:
    """What ran under the orchestrator that died, died with it."""
    message = "The orchestrator ended before the attempt did."
    connection.execute(
        update(attempts)
        .where(attempts.c.run == event.run, attempts.c.state == "running")
        .values(state="lost", finished_at=event.at, message=message)
    )
    connection.execute(
        update(steps)
        .where(steps.c.run == event.run, steps.c.state == "running")
        .values(state="pending", started_at=None)
    )


def _step_started(connection: Connection, event: StepStarted) -> None:
    _ensure_step(connection, event)
    connection.execute(
        _update_step(event).values(
            state="running",
            attempt=event.attempt,
            started_at=event.at,
            finished_at=None,
            fingerprint=event.fingerprint,
            cache=event.cache,
            message="",
            traceback=None,
            result=None,
            metrics={},
        )
    )
    _ensure_attempt(connection, event)
    connection.execute(_update_attempt(event).values(state="running", started_at=event.at))


def _step_finished(connection: Connection, event: StepFinished) -> None:
    _ensure_step(connection, event)
    change = {
        "state": event.state,
        "finished_at": event.at,
        "started_at": func.coalesce(steps.c.started_at, event.at),
        "message": event.message,
        "traceback": event.traceback,
        "result": event.result,
        "metrics": event.metrics,
    }
    if event.attempt:
        change["attempt"] = event.attempt
    else:  # skipped: took no time
        change["started_at"] = event.at
    if event.fingerprint is not None:
        change["fingerprint"] = event.fingerprint
    if event.cache:
        change["cache"] = event.cache
    connection.execute(_update_step(event).values(change))
    if event.attempt:
        _ensure_attempt(connection, event)
        connection.execute(
            _update_attempt(event).values(
                state=event.state, finished_at=event.at, message=event.message, traceback=event.traceback
            )
        )
    _use(connection, event, "input", event.inputs)
    _use(connection, event, "output", event.outputs)


def _ensure_step(connection: Connection, event: StepStarted | StepFinished | StepUpdated) -> None:
    connection.execute(insert_missing(steps).values(**_NEW_STEP, run=event.run, name=event.step))


def _update_step(event: StepStarted | StepFinished | StepUpdated) -> Update:
    """Change the step's row unless a later attempt has taken it over; attempt 0 stands for a skipped step."""
    mine = update(steps).where(steps.c.run == event.run, steps.c.name == event.step)
    return mine.where(steps.c.attempt <= event.attempt) if event.attempt else mine


def _ensure_attempt(connection: Connection, event: StepStarted | StepFinished) -> None:
    key = {"run": event.run, "step": event.step, "attempt": event.attempt}
    connection.execute(insert_missing(attempts).values(state="running", message="", **key))


def _update_attempt(event: StepStarted | StepFinished) -> Update:
    return update(attempts).where(
        attempts.c.run == event.run, attempts.c.step == event.step, attempts.c.attempt == event.attempt
    )


def _use(
    connection: Connection, event: StepFinished | ModelPublished, direction: str, used: Iterable[ArtifactReference]
) -> None:
    for artifact in used:
        described = {"kind": artifact.kind, "size": artifact.size}
        connection.execute(insert_missing(artifacts).values(digest=artifact.digest, **described))
        connection.execute(  # a model is published by its digest alone
            update(artifacts).where(artifacts.c.digest == artifact.digest, artifacts.c.size == 0).values(**described)
        )
        connection.execute(
            insert_missing(artifact_uses).values(
                run=event.run, step=event.step, direction=direction, digest=artifact.digest
            )
        )


def _model_published(connection: Connection, event: ModelPublished) -> None:
    """The latest publication under a version holds it: a models folder that was emptied counts from 1 again."""
    published = {
        "run": event.run,
        "step": event.step,
        "digest": event.digest,
        "published_at": event.at,
        "metrics": event.metrics,
    }
    connection.execute(insert_missing(model_versions).values(**published, model=event.model, version=event.version))
    connection.execute(
        update(model_versions)
        .where(model_versions.c.model == event.model, model_versions.c.version == event.version)
        .values(published)
    )
    _use(connection, event, "output", (ArtifactReference(digest=event.digest, kind="model"),))
    for alias in event.aliases:
        target = {"version": event.version, "run": event.run}
        connection.execute(insert_missing(model_aliases).values(**target, model=event.model, alias=alias))
        connection.execute(
            update(model_aliases)
            .where(model_aliases.c.model == event.model, model_aliases.c.alias == alias)
            .values(target)
        )
