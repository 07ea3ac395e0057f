"""Finding the run to go on with: the same pipeline, left unfinished by an orchestrator that is gone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ganglion.core.errors import UserError
from ganglion.core.run_events import RunFinished, RunStarted
from ganglion.fingerprints import CodeWalk, digest_parts
from ganglion.workflow.graph import Graph
from ganglion.workflow.journal import Journal, read_first


def code_of(graph: Graph) -> str:
    """A digest of the code of a pipeline and all its steps."""
    walk = CodeWalk()
    if graph.source is not None:
        walk.include("operation pipeline", graph.source)
    for node in graph.nodes.values():
        for name, value in node.operation.material().items():
            walk.include(f"operation {node.name} {name}", value)
    return digest_parts(walk.parts)


def open_unfinished(runs: Path, started: RunStarted) -> Journal | None:
    """Open the newest unfinished run of the same pipeline, parameters, code and environment.

    Args:
        runs: the folder of all runs.
        started: how a new run would begin; its id and time do not matter.

    Returns:
        Its journal, locked; `None` when there is no such run.
    """
    wanted = _essence(started)
    candidates: list[tuple[float, Path]] = []
    for folder in runs.iterdir() if runs.is_dir() else ():
        first = read_first(folder)
        if isinstance(first, RunStarted) and _essence(first) == wanted:
            candidates.append((first.at, folder))
    for _, folder in sorted(candidates, reverse=True):
        try:
            journal = Journal(folder)
        except UserError:  # its orchestrator lives
            continue
        if not any(isinstance(event, RunFinished) for event in journal.events):
            return journal
        journal.close()
    return None


def _essence(started: RunStarted) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(started, at=0.0, run="", resumed=False))
