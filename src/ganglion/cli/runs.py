"""`ganglion runs`: what ran, how it stands, and what its processes wrote."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.padding import Padding

from ganglion.cli.history import INTERRUPTED, STATES, History
from ganglion.cli.output import (
    console,
    duration_text,
    make_table,
    state_text,
    time_text,
    write_json,
)
from ganglion.cli.run import describe
from ganglion.cli.summary import models_table, steps_table
from ganglion.core.errors import NotFoundError, UserError, suggest
from ganglion.platform import Platform

if TYPE_CHECKING:
    from rich.console import Console

    from ganglion.metadata.views import RunDetail

app = typer.Typer(help="What ran, how it stands, and what its processes wrote.")

Reference = Annotated[str, typer.Argument(metavar="ID", help="Id of a run, the beginning of one, or `latest`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ALONE = "train"
"""Kind of the one step of a training that was run by itself."""

ENDED_EARLY = "Its orchestrator ended before the run did. "
HINT = ENDED_EARLY + "The same `ganglion run` command goes on with it, unless the code has changed since."


@app.callback(invoke_without_command=True)
def runs(context: typer.Context) -> None:
    """What ran, how it stands, and what its processes wrote; without a verb, the list."""
    if context.invoked_subcommand is None:
        list_runs()


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(help="Show at most so many.", min=1)] = 20,
    state: Annotated[str | None, typer.Option(help=f"Only runs in this state: {', '.join(STATES)}.")] = None,
    json_: AsJson = False,
) -> None:
    """List runs, the newest first.

    Examples:
        ganglion runs list

        ganglion runs list --state failed --limit 5 --json
    """
    if state is not None and state not in STATES:
        raise UserError(f"Runs have no state {state!r}. {suggest(state, STATES)}")
    with Platform() as platform:
        found = History(platform).runs(limit=limit, state=state)
        if json_:
            write_json(found)
            return
        if not found:
            console().print(f"No such runs in {escape(str(platform.folder))}.", soft_wrap=True)
            return
    table = make_table("id", "state", "started", ">time", ">steps", "pipeline")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for run in found:
        spent = duration_text(run.end - run.start) if run.end is not None else ""
        done = sum(run.steps.get(name, 0) for name in ("succeeded", "cached"))
        steps = f"{done}/{sum(run.steps.values())}"
        started = time_text(run.start)[:-3]
        table.add_row(run.id, state_text(run.state), started, spent, steps, escape(run.pipeline))
    console().print(table)
    if stopped := next((run for run in found if run.state == INTERRUPTED), None):
        console().print(
            f"\nHow to go on with one that was interrupted: ganglion runs show {stopped.id}", soft_wrap=True
        )


@app.command()
def show(id_: Reference, json_: AsJson = False) -> None:
    """Show a run: its steps with times, attempts, cache and metrics, what it published, why it failed.

    Examples:
        ganglion runs show latest

        ganglion runs show run-20260731-1425 --json
    """
    with Platform() as platform:
        detail = History(platform).find(id_)
    if json_:
        write_json(describe(detail))
    else:
        _print_detail(detail, console())


@app.command()
def logs(
    id_: Reference,
    step: Annotated[str | None, typer.Option(help="Only of this step.")] = None,
) -> None:
    """Print what the processes of a run wrote, each line behind its step and member.

    Examples:
        ganglion runs logs latest

        ganglion runs logs run-20260731-1425 --step plain
    """
    with Platform() as platform:
        detail = History(platform).find(id_)
    names = [found.name for found in detail.steps]
    if step is not None and step not in names:
        raise NotFoundError(f"Run {detail.id} has no step {step!r}. {suggest(step, names)}")
    found = list(_log_files(platform.folder / "jobs", detail.id, names if step is None else [step]))
    width = max((len(label) for label, _ in found), default=0)
    for label, path in found:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                sys.stdout.write(f"{label:{width}} | {line.rstrip()}\n")
    if not found:
        console(to_error=True).print(f"No process of {detail.id} has written a log.", soft_wrap=True)


def _log_files(jobs: Path, run: str, steps: list[str]) -> Iterator[tuple[str, Path]]:
    """Label and file of every attempt of every member, in the order in which a person looks for them."""
    folders = list(jobs.glob(f"{run}-*"))
    for step in steps:
        pattern = re.compile(re.escape(f"{run}-{step}-a") + r"(\d+)((-\d+)*)")
        matches = [(found, folder) for folder in folders if (found := pattern.fullmatch(folder.name))]
        for found, folder in sorted(matches, key=lambda match: _numbers(match[1].name)):
            again = "" if found[1] == "1" else f" attempt {found[1]}"
            for path in sorted(folder.glob("*/*/log"), key=lambda path: _numbers(str(path.relative_to(folder)))):
                yield f"{step} {path.parts[-3]}{again}", path


def _numbers(text: str) -> list[tuple[int, str]]:
    """A key that sorts `worker-10` behind `worker-9`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def _print_detail(detail: RunDetail, out: Console) -> None:
    parameters = "  ".join(f"{name}={value}" for name, value in detail.parameters.items())
    out.print(f"[bold]{escape(detail.pipeline)}[/]  {detail.id}", soft_wrap=True)
    ended = f", ended {time_text(detail.end)} after {duration_text(detail.end - detail.start)}" if detail.end else ""
    out.print(f"{state_text(detail.state)}  started {time_text(detail.start)}{ended}", soft_wrap=True)
    out.print(f"[dim]{escape(parameters)}  seed {detail.seed}[/]\n", soft_wrap=True)
    out.print(steps_table(detail))
    if detail.models:
        out.print(Padding(models_table(detail.models), (1, 0, 0, 0)))
    if detail.message:
        out.print(f"\n{escape(detail.message)}", soft_wrap=True)
    for step in detail.steps:
        if step.traceback:
            out.print(f"\n[bold]{step.name}[/]\n{escape(step.traceback.rstrip())}", soft_wrap=True)
    if hint := _how_to_go_on(detail):
        out.print(f"\n{escape(hint)}", soft_wrap=True)


def _how_to_go_on(detail: RunDetail) -> str:
    """What to do with a run that did not come to its end; empty where nothing is left of it."""
    interrupted = detail.state == INTERRUPTED
    if [step.kind for step in detail.steps] != [ALONE] or "set" not in detail.parameters:
        return HINT if interrupted else ""
    checkpoints = detail.parameters.get("checkpoints")
    if checkpoints is not None and detail.state in (INTERRUPTED, "failed", "cancelled"):
        newest = max((int(path.name) for path in Path(checkpoints).glob("*") if path.name.isdecimal()), default=None)
        where = f"step {newest}, its newest checkpoint" if newest is not None else "its beginning: no checkpoint is"
        begin = ENDED_EARLY if interrupted else ""
        return f"{begin}{_command(detail)} goes on from {where} in {checkpoints}. The number of workers may be another."
    if interrupted:
        return (
            f"{ENDED_EARLY}{_command(detail)} begins anew, as it keeps no checkpoints; give the training "
            'checkpoints={"folder": ...} to have it go on.'
        )
    return ""


def _command(detail: RunDetail) -> str:
    """What a training was started with, as far as its result depends on it."""
    given = detail.parameters
    settings = "".join(f" --set {shlex.quote(str(text))}" for text in given["set"])
    settings += f" --limit {given['limit']}" if "limit" in given else ""
    return f"`ganglion train {shlex.quote(detail.pipeline)} --workers {given['workers']}{settings}`"
