"""`ganglion predict --input SOURCE --output DEST`: a source or a prepared dataset, by many processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape

from ganglion.cli.data_dataset import counted, find_digest, open_digest
from ganglion.cli.data_prepare import PrepareProgress, parse_max_bad, use_workers
from ganglion.cli.data_source import SourceChoice
from ganglion.cli.output import console, duration_text, make_table, write_json
from ganglion.core.errors import UserError
from ganglion.core.resources import parse_size
from ganglion.platform import Platform

if TYPE_CHECKING:
    from ganglion.data import PlainSource


class BatchWish(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of a batch prediction.

    Attributes:
        choice: the source, or the digest of a dataset.
        output: the folder for the rows; empty where it was not said.
        columns: of the source that are kept, separated by commas.
        feed: texts `input=column,column`.
        output_format: of the rows.
        part: bytes of the source whose rows are in one file.
        batch: records that the model is given at once.
        workers: processes.
        max_bad: bad records that are tolerated.
    """

    choice: SourceChoice
    output: str
    columns: str = ""
    feed: tuple[str, ...] = ()
    output_format: str | None = None
    part: str | None = None
    batch: int | None = None
    workers: int = 1
    max_bad: str = "1%"


def predict_batch(model: str, wish: BatchWish, *, json_: bool) -> None:
    """Predict all records with progress, and show what came of it.

    Args:
        model: `name`, `name:version` or `name:alias`.
        wish: what is to be done.
        json_: whether a program reads.
    """
    from ganglion.pipelines.prediction.driver import BATCH, predict_source
    from ganglion.pipelines.prediction.folder import PredictionFolder

    if not wish.output or "://" in wish.output:
        raise UserError("Say with --output FOLDER where the predictions go: a folder that every worker can reach.")
    options: dict[str, Any] = {
        "columns": [name.strip() for name in wish.columns.split(",") if name.strip()],
        "feeds": dict(map(_feed, wish.feed)),
        "form": wish.output_format,
        "part_bytes": parse_size(wish.part) if wish.part else None,
        "batch": wish.batch or BATCH,
        "max_bad": parse_max_bad(wish.max_bad),
        "workers": wish.workers,
    }
    out, output = console(to_error=json_), Path(wish.output).absolute()
    with Platform() as platform:
        source = _source(wish.choice, platform)
        platform.repository.resolve(model)
        runner = use_workers(platform, wish.workers)
        started = time.monotonic()
        with PrepareProgress(out, quiet=json_) as progress:
            told: list[Any] = []

            def tell(advance: Any) -> None:
                told[:] = [advance]
                progress(advance)

            try:
                summary = predict_source(
                    platform.repository, model, source, output, run=runner, progress=tell, **options
                )
            except KeyboardInterrupt:
                kept = counted(PredictionFolder(output).finished(), "part")
                out.print(f"Interrupted with {kept} in {escape(str(output))}.", soft_wrap=True)
                out.print("The same command goes on where it was.")
                raise
        described = {
            "state": "predicted" if told else "done before",
            **msgspec.to_builtins(summary),
            "output": str(output),
            "parts_of_an_earlier_attempt": progress.pace.earlier if told else len(summary.parts),
            "seconds": time.monotonic() - started,
            "rows_per_second": progress.pace.take(told[0])[0] if told else 0.0,
        }
    if json_:
        write_json(described)
    else:
        _print(described, out)


def _source(choice: SourceChoice, platform: Platform) -> PlainSource:
    digest = find_digest(choice.paths[0], platform.store) if len(choice.paths) == 1 else None
    if digest is None:
        return choice.open()
    if choice.changes:
        raise UserError(f"{choice.paths[0]} is a prepared dataset; {choice.changes[0]} is for sources.")
    from ganglion.pipelines.prediction.dataset_source import DatasetSource

    return DatasetSource.of(open_digest(digest, platform.store))


def _feed(text: str) -> tuple[str, list[str]]:
    name, separator, columns = text.partition("=")
    chosen = [column.strip() for column in columns.split(",") if column.strip()]
    if not separator or not name or not chosen:
        raise UserError(f"--feed {text!r} is not of the form INPUT=COLUMN or INPUT=COLUMN,COLUMN,...")
    return name.strip(), chosen


def _print(described: dict[str, Any], out: Console) -> None:
    style = "green" if described["state"] == "predicted" else "cyan"
    out.print(f"[{style}]{described['state']}[/] in {duration_text(described['seconds'])}")
    model, earlier = described["model"], described["parts_of_an_earlier_attempt"]
    rate = f" ({described['rows_per_second']:,.0f} rows/s)" if described["rows_per_second"] else ""
    names = {"read": "read", "predicted": "predicted", "set_aside": "set aside", "left_out": "left out"}
    table = make_table("", "")
    table.show_header = False
    for name, text in (
        ("model", f"{model['name']} version {model['version']}"),
        ("records", ", ".join(f"{described[key]:,} {word}" for key, word in names.items()) + rate),
        ("output", f"{described['output']} ({counted(len(described['parts']), 'part')})"),
        ("went on after", f"{counted(earlier, 'part')} of an earlier attempt" if earlier else ""),
    ):
        if text:
            table.add_row(f"[dim]{name}[/]", escape(text))
    out.print(table)
    for bad in described["bad"][:5]:
        out.print(
            f"  [red]{bad['count']:,} set aside[/] {escape(bad['stage'])}: {escape(bad['reason'])}", soft_wrap=True
        )
