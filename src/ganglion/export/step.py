"""The command in the containers of an exported pipeline.

`python -m ganglion.export.step PIPELINE --step NAME --run RUN` runs one step of the pipeline against the project folder
on the shared volume (`GANGLION_HOME`): results of other steps are read from there, its own is left there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ganglion.core import log
from ganglion.core.errors import GanglionError, UserError
from ganglion.core.project import find_folder
from ganglion.export.order import StepOrder
from ganglion.export.perform import perform


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the step that the command line names.

    Raises:
        GanglionError: it cannot be run, or it failed.
    """
    given = _parser().parse_args(arguments)
    order = StepOrder(
        pipeline=given.pipeline,
        step=given.step,
        run=given.run,
        parameters=tuple(given.set),
        inputs=_pairs("--input", given.input),
        urls=_pairs("--url", given.url),
        seed=given.seed,
        limit=given.limit,
        retries=given.retries,
    )
    perform(order, find_folder())
    if given.receipt:
        given.receipt.write_text(given.run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ganglion.export.step",
        description="Run one step of a pipeline in a container.",
        allow_abbrev=False,
    )
    parser.add_argument("pipeline", help="module:name of the pipeline")
    parser.add_argument("--step", required=True, help="name of the step")
    parser.add_argument("--run", required=True, help="id of the run that the result belongs to")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="parameter of the pipeline")
    parser.add_argument("--input", action="append", default=[], metavar="STEP=RUN", help="run that holds a result")
    parser.add_argument("--url", action="append", default=[], metavar="STEP=URL", help="where a service answers")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--limit", type=int, default=None, help="records to take from each source")
    parser.add_argument("--retries", type=int, default=0, help="failed attempts so far")
    parser.add_argument("--receipt", type=Path, help="file that gets the id of the run once the result is there")
    return parser


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise UserError(f"{option} {text!r} is not of the form STEP=VALUE.")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    log.configure(os.environ.get("GANGLION_LOG", "info"))
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except GanglionError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
