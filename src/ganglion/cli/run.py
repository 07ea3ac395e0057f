"""`ganglion run`: run a pipeline of a file."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from ganglion.cli.output import console, duration_text, state_text, write_json
from ganglion.cli.progress import Progress
from ganglion.cli.summary import models_table, returned_table, services_table, steps_table
from ganglion.core.errors import ConfigurationError, UserError, suggest
from ganglion.core.project import find_folder
from ganglion.core.registry import load_file
from ganglion.metadata.views import RunDetail
from ganglion.platform import Platform, PlatformConfig, Run, load_configuration
from ganglion.workflow.pipeline import Pipeline


def run(
    target: Annotated[
        str, typer.Argument(metavar="FILE[:PIPELINE]", help="The file, and the pipeline if it has more.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter of the pipeline, or section.key of ganglion.toml."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Short for --set workers=N.", min=1)] = None,
    backend: Annotated[
        str | None, typer.Option(help="Where to run: local or ray. Short for --set execution.backend=NAME.")
    ] = None,
    seed: Annotated[int, typer.Option(help="What everything random follows from.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Take only this many records from each source.", min=1)] = None,
    inline: Annotated[
        bool, typer.Option("--inline", help="Run every step in this process, in order, for a debugger.")
    ] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Keep services running after the run, until Ctrl-C.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the run as one JSON document and nothing else.")] = False,
) -> None:
    """Run a pipeline; steps whose code, inputs and environment have not changed are skipped.

    Examples:
        ganglion run recipes/fashion_mnist.py

        ganglion run recipes/fashion_mnist.py --set epochs=3 --workers 1 --hold

        ganglion run recipes/fashion_mnist.py --limit 2000 --json
    """
    pipeline = load_pipeline(target)
    short = [*([f"workers={workers}"] if workers else ()), *([f"execution.backend={backend}"] if backend else ())]
    parameters, settings = _divide(pipeline, [*(set_ or ()), *short])
    folder = find_folder()
    out = console(to_error=json_)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    with Platform(folder, load_configuration(folder, settings)) as platform:
        with nullcontext() if json_ else Progress(out) as progress:
            done = platform.run(pipeline, parameters, limit=limit, inline=inline, seed=seed, listener=progress)
        if json_:
            write_json(document(done))
        else:
            summarise(done, out)
        if hold and done.url is not None and done.state == "succeeded":
            out.print(f"\nServing at [bold]{done.url}[/] until Ctrl-C.")
            _wait_for_interrupt()
    if done.state != "succeeded":
        if done.result.traceback:
            sys.stderr.write(done.result.traceback)
        sys.exit(130 if done.state == "cancelled" else 1)


def load_pipeline(target: str) -> Pipeline[..., Any]:
    """The pipeline that `FILE[:PIPELINE]` names.

    Raises:
        UserError: there is no such file or pipeline, or the file has several and none is named.
    """
    file, _, name = target.partition(":")
    module = load_file(Path(file))
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, Pipeline) and value.function.__module__ == module.__name__
    }
    if not found:
        raise UserError(f"{file} has no pipeline; mark a function with @pipeline.")
    if name and name not in found:
        raise UserError(f"{file} has no pipeline {name!r}. {suggest(name, found)}")
    if not name and len(found) > 1:
        raise UserError(
            f"{file} has several pipelines; name one, as in {file}:{next(iter(found))}. {suggest('', found)}"
        )
    return found[name] if name else next(iter(found.values()))


def _divide(pipeline: Pipeline[..., Any], overrides: list[str]) -> tuple[list[str], list[str]]:
    """Tell overrides of the pipeline's parameters from those of the configuration.

    Raises:
        ConfigurationError: a key is neither.
    """
    sections = PlatformConfig.__struct_fields__
    parameters, settings = [], []
    for text in overrides:
        key = text.partition("=")[0]
        first = key.partition(".")[0]
        if first in pipeline.parameters:
            parameters.append(text)
        elif first in sections:
            settings.append(text)
        else:
            allowed = [*pipeline.parameters, *(f"{section}.*" for section in sections)]
            raise ConfigurationError(f"Unknown key {key!r} for {pipeline.name}. {suggest(key, allowed)}")
    return parameters, settings


def document(done: Run) -> dict[str, Any]:
    """The run as `--json` shows it; what the pipeline returned is under `value`."""
    return {**describe(done.detail), "value": done.value if done.state == "succeeded" else None, "url": done.url}


def describe(detail: RunDetail) -> dict[str, Any]:
    """The record of a run as plain data; the same now and later."""
    described: dict[str, Any] = msgspec.to_builtins(detail, enc_hook=str)
    return described


def summarise(done: Run, out: Console) -> None:
    """Show what the run did: steps with their times, models, what is served, what was returned."""
    detail = done.detail
    out.print(f"\n[bold]{detail.pipeline}[/]  {detail.id}")
    out.print(steps_table(detail))
    if detail.models:
        out.print(Padding(models_table(detail.models), (1, 0, 0, 0)))
    if done.services:
        out.print(Padding(services_table(done.services), (1, 0, 0, 0)))
    if done.state == "succeeded" and done.value is not None:
        out.print(Padding(returned_table(done.value), (1, 0, 0, 0)))
    spent = (detail.end or detail.start) - detail.start
    why = f": {escape(detail.message)}" if detail.message else ""
    out.print(f"\n{state_text(done.state)} in {duration_text(spent)}{why}", soft_wrap=True)


def _wait_for_interrupt() -> None:
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: over.set())
    over.wait()
