"""`ganglion stop`: end a run that is going on in another process."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Annotated

import typer
from rich.markup import escape

from ganglion.cli.history import History
from ganglion.cli.output import console, duration_text, state_text
from ganglion.core.errors import UserError
from ganglion.platform import Platform


def stop(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a run, the beginning of one, or `latest`.")],
) -> None:
    """End a run: its steps are cancelled, what has finished stays and is not repeated by the next run.

    Examples:
        ganglion stop latest

        ganglion stop run-20260731-1425
    """
    from ganglion.workflow.journal import orchestrator, wait_for_end

    out = console()
    with Platform() as platform:
        found = History(platform).find(id_)
        folder = platform.folder / "runs" / found.id
        process = orchestrator(folder)
        if process is None:
            raise UserError(f"Run {found.id} is not going on: it {_past(found.state)}. There is nothing to stop.")
        out.print(f"Stopping {found.id} (process {process}) ...", soft_wrap=True)
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(process, signal.SIGTERM)
        wait_for_end(folder)
        ended = History(platform).find(found.id)
    spent = f" after {duration_text(ended.end - ended.start)}" if ended.end is not None else ""
    reason = f": {escape(ended.message)}" if ended.message else ""
    out.print(f"{ended.id} {state_text(ended.state)}{spent}{reason}", soft_wrap=True)


def _past(state: str) -> str:
    return {"running": "has just ended", "cancelled": "was cancelled", "interrupted": "was interrupted"}.get(
        state, state
    )
