"""The `ganglion` command: gathers the verbs and turns errors into messages and exit codes.

Exit codes: 0 for success, 1 for a run or job that failed, 2 for input that cannot work, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from inspect import cleandoc
from typing import Annotated

import typer

from ganglion import __version__
from ganglion.core import log
from ganglion.core.errors import GanglionError
from ganglion.core.registry import load_object

VERBS = {
    "run": "ganglion.cli.run:run",
    "run-script": "ganglion.cli.run_script:run_script",
    "train": "ganglion.cli.train:train",
    "stop": "ganglion.cli.stop:stop",
    "delete": "ganglion.cli.delete:delete",
    "clean": "ganglion.cli.clean:clean",
    "serve": "ganglion.cli.serve:serve",
    "predict": "ganglion.cli.predict:predict",
    "doctor": "ganglion.cli.doctor:doctor",
}
"""Where each verb is, in the order in which they are shown."""

GROUPS = {
    "runs": "ganglion.cli.runs:app",
    "models": "ganglion.cli.models:app",
    "keys": "ganglion.cli.keys:app",
    "services": "ganglion.cli.services:app",
    "data": "ganglion.cli.data:app",
    "export": "ganglion.cli.export:app",
}
"""Where each group of verbs is."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ganglion {__version__}")
        raise typer.Exit


def common(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, help="Show the version.")] = False,
) -> None:
    """Options before the verb."""


def make_app(verb: str | None = None) -> typer.Typer:
    """The command line.

    Args:
        verb: the only verb or group that it needs to have, since that is called: nothing else is imported. All of them
            where it is none of ours.
    """
    app = typer.Typer(
        name="ganglion",
        help="Take a machine-learning pipeline from a laptop to a cluster without rewriting it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(common)
    known = verb in VERBS or verb in GROUPS
    for name, place in VERBS.items():
        if not known or name == verb:
            app.command(name)(load_object(place))
    for name, place in GROUPS.items():
        if not known or name == verb:
            app.add_typer(load_object(place), name=name)
    _lay_out_examples(app)
    return app


def _lay_out_examples(app: typer.Typer) -> None:
    """Let the examples in the help of verbs stand on lines of their own, as they do where they are written."""
    for verb in app.registered_commands:
        text = cleandoc((verb.callback.__doc__ if verb.callback is not None else None) or "")
        before, heading, examples = text.partition("\nExamples:\n")
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        verb.help = "\n".join((before + heading, "```text", *lines, "```")) if heading else text
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.typer_instance.rich_markup_mode = app.rich_markup_mode
            _lay_out_examples(group.typer_instance)


def run() -> None:
    """Run the command and leave with its exit code."""
    try:
        log.configure(os.environ.get("GANGLION_LOG", "warning"))
        make_app(sys.argv[1] if len(sys.argv) > 1 else None)()
    except GanglionError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
