"""Carries out an order: the step is executed as the engine does it, fingerprint and memory included."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganglion.artifacts.store import FolderStore
from ganglion.core.clock import SystemClock
from ganglion.core.errors import ExecutionError, GraphError, NotFoundError, UserError, suggest
from ganglion.core.registry import load_object
from ganglion.core.run_events import AnyRunEvent, StepFinished
from ganglion.execution.member import current_member
from ganglion.export.order import StepOrder
from ganglion.export.results import Results
from ganglion.serving.repository import ModelRepository
from ganglion.workflow.codec import TAG
from ganglion.workflow.executor import RunContext, StepExecutor
from ganglion.workflow.memo import Memo
from ganglion.workflow.options import check_name
from ganglion.workflow.pipeline import Pipeline
from ganglion.workflow.plan import Execute

if TYPE_CHECKING:
    from ganglion.execution.supervisor import Supervisor


def perform(
    order: StepOrder,
    folder: Path,
    *,
    supervisor: Supervisor | None = None,
    services: Mapping[str, Any] | None = None,
) -> StepFinished:
    """Execute one step in this process and keep its result.

    Args:
        order: which step.
        folder: the project folder, on the shared volume.
        supervisor: runs the jobs of the step; `None` runs them in this process, alone.
        services: long-lived controllers, beside the repository of models.

    Returns:
        Its end; the first member of a gang keeps it on the volume.

    Raises:
        UserError: there is no such pipeline, step or input.
        ExecutionError: the step failed.
    """
    pipeline = load_object(order.pipeline)
    if not isinstance(pipeline, Pipeline):
        raise UserError(f"{order.pipeline!r} is a {type(pipeline).__name__}, not a pipeline; mark it with @pipeline.")
    graph = pipeline.trace(order.parameters)
    node = graph.nodes.get(order.step)
    if node is None:
        raise NotFoundError(f"{order.pipeline} has no step {order.step!r}. {suggest(order.step, graph.nodes)}")
    results = Results(folder)
    inputs = {source: _input(order, source, results) for source in node.sources()}
    store = FolderStore(folder / "store")
    events: list[AnyRunEvent] = []

    def emit(event: AnyRunEvent, *, wait: bool = False) -> None:
        events.append(event)

    context = RunContext(
        run=check_name(order.run),
        graph=graph,
        folder=folder / "runs" / order.run,
        seed=order.seed,
        limit=order.limit,
        inline=supervisor is None,
        store=store,
        memo=Memo(folder / "memo", store, SystemClock()),
        supervisor=supervisor,
        services={"repository": ModelRepository(folder / "models"), **(services or {})},
        clock=SystemClock(),
        emit=emit,
    )
    action = Execute(step=node.name, attempt=order.retries + 1, begins=True, inputs=inputs, final=True)
    StepExecutor(context, node, action, 1).run()
    finished = events[-1]
    assert isinstance(finished, StepFinished), "an execution ends with its end"
    if finished.state not in ("succeeded", "cached"):
        sys.stderr.write(finished.traceback or "")
        raise ExecutionError(f"Step {order.step!r} {finished.state}: {finished.message}")
    if current_member().rank == 0:
        results.write(order.run, order.step, events)
    return finished


def _input(order: StepOrder, source: str, results: Results) -> Any:
    if source not in order.inputs:
        raise GraphError(f"Step {order.step!r} needs the result of {source!r}; say which run holds it.")
    result = results.read(check_name(order.inputs[source]), source)
    if source in order.urls:
        fields = result.get("fields") if isinstance(result, dict) and result.get(TAG) == "struct" else None
        if not fields or "url" not in fields:
            raise GraphError(f"Step {source!r} returned nothing that has a `url`; it cannot be given another one.")
        result = {**result, "fields": {**fields, "url": order.urls[source]}}
    return result
