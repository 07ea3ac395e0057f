"""`ganglion delete`: forget a run."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from ganglion.cli.history import History
from ganglion.cli.output import console
from ganglion.core.errors import UserError
from ganglion.platform import Platform


def delete(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a run, the beginning of one, or `latest`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run that is over: its record, journal and logs. The models that it published stay.

    Artifacts that nothing else refers to are removed by `ganglion clean`.

    Examples:
        ganglion delete run-20260731-1425

        ganglion delete latest --yes
    """
    from ganglion.workflow.journal import is_alive

    with Platform() as platform:
        found = History(platform).find(id_)
        folder = platform.folder / "runs" / found.id
        if is_alive(folder):
            raise UserError(f"Run {found.id} is going on. End it first: ganglion stop {found.id}.")
        if not yes:
            typer.confirm(f"Delete {found.id} ({found.pipeline}, {found.state})?", abort=True)
        for job in (platform.folder / "jobs").glob(f"{found.id}-*"):
            shutil.rmtree(job)
        if folder.is_dir():
            shutil.rmtree(folder)
        platform.record.delete_run(found.id)  # last: what was begun and not finished can be begun again
    console().print(f"Deleted {found.id}.", soft_wrap=True)
