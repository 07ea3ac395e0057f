"""The entry of function steps, called in their process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganglion.artifacts.store import FolderStore
from ganglion.workflow import codec
from ganglion.workflow.context import StepContext, step_context
from ganglion.workflow.graph import trace_into


def run_step(
    *,
    function: Any,
    arguments: dict[str, Any],
    run: str,
    step: str,
    attempt: int,
    seed: int,
    limit: int | None,
    folder: str,
    store: str,
) -> Any:
    """Decode the inputs, call the function and encode its result.

    Args:
        function: encoded; by import path where it has one.
        arguments: encoded, by name.
        run: id of the run.
        step: name of the step.
        attempt: 1 for the first try.
        seed: the step's own.
        limit: number of records to take from each source.
        folder: of this attempt; created.
        store: root of the artifact store.

    Raises:
        CodecError: the result cannot travel.
    """
    place = Path(folder)
    work = place / "work"
    work.mkdir(parents=True, exist_ok=True)
    artifacts = FolderStore(Path(store))
    call = codec.decode(function, artifacts, place)
    values = {name: codec.decode(value, artifacts, place / "inputs") for name, value in arguments.items()}
    with step_context(StepContext(run, step, attempt, seed, limit, work, artifacts)), trace_into(None):
        return codec.encode(call(**values), artifacts)
