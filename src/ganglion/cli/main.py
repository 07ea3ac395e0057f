"""The `ganglion` command: gathers the verbs and turns errors into messages and exit codes.

Exit codes: 0 for success, 1 for a run or job that failed, 2 for input that cannot work, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ganglion import __version__
from ganglion.cli import data, export, keys, models, runs, services
from ganglion.cli.clean import clean
from ganglion.cli.delete import delete
from ganglion.cli.doctor import doctor
from ganglion.cli.predict import predict
from ganglion.cli.run import run as run_verb
from ganglion.cli.run_script import run_script
from ganglion.cli.serve import serve
from ganglion.cli.stop import stop
from ganglion.cli.train import train
from ganglion.core import log
from ganglion.core.errors import GanglionError

app = typer.Typer(
    name="ganglion",
    help="Take a machine-learning pipeline from a laptop to a cluster without rewriting it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run_verb)
app.command("run-script")(run_script)
app.command("train")(train)
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(services.app, name="services")
app.add_typer(data.app, name="data")
app.add_typer(export.app, name="export")
for verb in (stop, delete, clean, serve, predict, doctor):
    app.command(verb.__name__)(verb)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ganglion {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, help="Show the version.")] = False,
) -> None:
    """Options before the verb."""


def run() -> None:
    """Run the command and leave with its exit code."""
    log.configure(os.environ.get("GANGLION_LOG", "warning"))
    try:
        app()
    except GanglionError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
