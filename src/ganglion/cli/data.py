"""`ganglion data`: look at sources, prepare datasets of them, and see what became of every record."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ganglion.cli import data_damage, data_delete, data_quarantine
from ganglion.cli.data_dataset import (
    SHORT,
    describe_dataset,
    find_digest,
    made_datasets,
    open_digest,
    original_source,
    require_digest,
    source_text,
)
from ganglion.cli.data_inspect import (
    Wish,
    check_sheet,
    inspect_dataset,
    inspect_source,
    parse_shards,
)
from ganglion.cli.data_prepare import (
    PrepareProgress,
    describe_preparation,
    parse_max_bad,
    print_preparation,
    use_workers,
)
from ganglion.cli.data_source import Filters, Format, Key, Limit, Maps, Options, Paths, Query, SourceChoice, Table
from ganglion.cli.data_tables import print_dataset, print_source
from ganglion.cli.history import History
from ganglion.cli.output import console, make_table, time_text, write_json
from ganglion.core.errors import UserError
from ganglion.core.resources import format_size, parse_size
from ganglion.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from ganglion.cli.data_sample import Look
    from ganglion.data import PlainSource, PreparedDataset

app = typer.Typer(help="Sources and prepared datasets: look at them, prepare them, verify them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="A prepared dataset: its digest, or the first six digits or more.")
]
MaxBad = Annotated[
    str, typer.Option(metavar="COUNT|SHARE", help="Bad records that are tolerated, such as 100, 0.01 or 1%.")
]
Memory = Annotated[str, typer.Option(metavar="SIZE", help="Memory that all workers may take together for records.")]
Workers = Annotated[int, typer.Option(help="Processes that read and write at the same time.", min=1)]


@app.command("inspect")
def inspect_verb(
    source: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE|DATASET", help="As for `data prepare`; or the digest of a prepared dataset."),
    ],
    format: Format = None,
    option: Options = None,
    table: Table = "",
    query: Query = "",
    key: Key = "",
    filter: Filters = None,
    map: Maps = None,
    limit: Limit = None,
    sample: Annotated[int, typer.Option(help="Records to show, drawn out of all.", min=0, max=1000)] = 5,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write a page with up to 100 images, drawn out of all.")
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="N|SHARES", help="Of a dataset: how many records 4 workers, or ones of shares 2,1,1, get."
        ),
    ] = None,
    hash_key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Divide it by this column: equal keys to the same worker.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Show what a source or a prepared dataset consists of: fields, counts, statistics, a sample. Reads all of it.

    Examples:
        ganglion data inspect 'tables/*.csv' --option delimiter=';'

        ganglion data inspect photos/ --limit 1000 --contact-sheet photos.png

        ganglion data inspect sqlite:///shop.db --table orders --key id

        ganglion data inspect 3f2a9c01d2e4 --shards 2,1,1 --json
    """
    wish = Wish(
        sample=sample,
        sheet=check_sheet(contact_sheet) if contact_sheet else None,
        shards=parse_shards(shards) if shards else (),
        hash_key=hash_key,
    )
    choice = SourceChoice(
        paths=source, format=format, options=option, table=table, query=query, key=key, filters=filter, maps=map,
        limit=limit,
    )  # fmt: skip
    out = console(to_error=json_)
    with Platform() as platform:
        digest = find_digest(source[0], platform.store) if len(source) == 1 else None
        if digest is not None:
            if choice.changes:
                raise UserError(
                    f"{source[0]} is a prepared dataset; {choice.changes[0]} is for sources. Give it without."
                )
            described = inspect_dataset(open_digest(digest, platform.store), wish)
        else:
            with nullcontext() if json_ else out.status("reading") as status:

                def tell(look: Look, known: int) -> None:
                    if status is not None:
                        of = f" of {known:,}" if known else ""
                        status.update(f"{look.records:,}{of} records, {format_size(look.size)}")

                described = inspect_source(choice.open(), wish, tell)
    if json_:
        del described["sample_texts"]
        write_json(described)
    else:
        (print_source if digest is None else print_dataset)(described, out)


@app.command("prepare")
def prepare_verb(
    source: Paths,
    format: Format = None,
    option: Options = None,
    table: Table = "",
    query: Query = "",
    key: Key = "",
    filter: Filters = None,
    map: Maps = None,
    limit: Limit = None,
    max_bad: MaxBad = "1%",
    memory: Memory = "512MiB",
    workers: Workers = 1,
    segment: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest file of the dataset; what suits the source by default.")
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option(
            metavar="AGE", help="Take a dataset that is not older (30m, 1h, 7d) without a look at the source."
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Read a source once and keep its records prepared for training; bad records are set aside and counted.

    Run again, it is `cached` while the source, the options and the code have not changed. Killed on the way, it goes on
    where it was. Filters see what the source yields, and maps what the filters leave.

    Examples:
        ganglion data prepare 'tables/*.parquet' --max-bad 100

        ganglion data prepare photos/ --option size=[64,64] --option mode=L --workers 4 --memory 256MiB

        ganglion data prepare events.jsonl --filter clean:has_user --map clean:to_features

        ganglion data prepare postgresql://ann@db/shop --query "SELECT id, price FROM orders" --key id
    """
    from ganglion.workflow.options import parse_duration

    choice = SourceChoice(
        paths=source, format=format, options=option, table=table, query=query, key=key, filters=filter, maps=map,
        limit=limit,
    )  # fmt: skip
    tolerated = parse_max_bad(max_bad)
    seconds = parse_duration(max_age) if max_age else None
    segment_bytes = parse_size(segment) if segment else None

    def work(found: PlainSource, platform: Platform, options: dict[str, Any]) -> PreparedDataset:
        from ganglion.data import prepare

        return prepare(
            found, platform.store, max_bad=tolerated, max_age=seconds, segment_bytes=segment_bytes, **options
        )

    _prepare(choice.open(), work, "prepared", memory=memory, workers=workers, json_=json_)


@app.command("grow")
def grow_verb(
    dataset: Dataset,
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="The source as it is now; without it the one it was made of."),
    ] = None,
    format: Format = None,
    option: Options = None,
    table: Table = "",
    query: Query = "",
    key: Key = "",
    filter: Filters = None,
    map: Maps = None,
    max_bad: MaxBad = "1%",
    memory: Memory = "512MiB",
    workers: Workers = 1,
    json_: AsJson = False,
) -> None:
    """Add what a source has got since a dataset was made of it; only new files are read.

    The dataset stays as it is; a larger one is made that shares its files.

    Examples:
        ganglion data grow 3f2a9c01d2e4

        ganglion data grow 3f2a9c01d2e4 'tables/*.parquet' 'more/*.parquet' --json
    """
    choice = SourceChoice(
        paths=source or (), format=format, options=option, table=table, query=query, key=key, filters=filter, maps=map
    )
    if not source and choice.changes:
        raise UserError(f"{choice.changes[0]} goes with a SOURCE; name it too, or leave both out.")
    tolerated = parse_max_bad(max_bad)

    def work(found: PlainSource, platform: Platform, options: dict[str, Any]) -> PreparedDataset:
        from ganglion.data import grow

        return grow(_open(dataset, platform), found, platform.store, max_bad=tolerated, **options)

    _prepare(choice.open() if source else None, work, "grown", of=dataset, memory=memory, workers=workers, json_=json_)


@app.command("verify")
def verify_verb(dataset: Dataset, json_: AsJson = False) -> None:
    """Read every byte of a dataset and compare it with what was written; ends with status 1 if it is damaged.

    Examples:
        ganglion data verify 3f2a9c01d2e4

        ganglion data verify 3f2a9c01d2e4 --json
    """
    with Platform() as platform:
        digest = require_digest(dataset, platform.store)
        verified = data_damage.verify_dataset(digest, platform.store)
    if json_:
        write_json({"dataset": digest, "sound": not verified.damaged, **data_damage.describe_verified(verified)})
    else:
        data_damage.print_verified(digest, verified, console())
    if verified.damaged:
        sys.exit(1)


@app.command("quarantine")
def quarantine_verb(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET|FOLDER", help="A prepared dataset; or what a preparation that gave up named."),
    ],
    show: Annotated[int, typer.Option(metavar="N", help="Show the bytes of the first N records.", min=0)] = 0,
    replay: Annotated[
        bool, typer.Option("--replay", help="Read them again, after a fix of the source, and add those that are good.")
    ] = False,
    memory: Memory = "512MiB",
    workers: Workers = 1,
    json_: AsJson = False,
) -> None:
    """Show the records that were set aside, by source, reason and place; or add those that have been mended.

    With --replay the files may have been mended, or the code of a source, filter or map.

    Examples:
        ganglion data quarantine 3f2a9c01d2e4 --show 3

        ganglion data quarantine 3f2a9c01d2e4 --replay

        ganglion data quarantine .ganglion/store/prepared/0d4b/quarantine --json
    """
    if replay:

        def work(found: PlainSource, platform: Platform, options: dict[str, Any]) -> PreparedDataset:
            from ganglion.data import replay

            return replay(_open(dataset, platform), found, platform.store, **options)

        _prepare(None, work, "replayed", of=dataset, memory=memory, workers=workers, json_=json_)
        return
    with Platform() as platform:
        digest = find_digest(dataset, platform.store)
        if digest is None and Path(dataset).exists():
            records = list(data_quarantine.records_in(Path(dataset)))
        else:
            records = list(_open(dataset, platform).quarantine())
    if json_:
        write_json({"dataset": digest, **data_quarantine.describe_quarantine(records, payloads=show)})
    else:
        data_quarantine.print_quarantine(records, console(), payloads=show)


@app.command("list")
def list_datasets(json_: AsJson = False) -> None:
    """List the datasets that were prepared in this project, the newest first.

    Examples:
        ganglion data list

        ganglion data list --json
    """
    with Platform() as platform:
        root = platform.store.root
        found = [
            {"at": made.at, **describe_dataset(open_digest(made.artifact.digest, platform.store))}
            for made in made_datasets(platform.store)
        ]
    if json_:
        write_json(found)
        return
    if not found:
        console().print(f"No datasets in {escape(str(root))}.", soft_wrap=True)
        return
    table = make_table("dataset", ">records", ">set aside", ">size", "prepared", "fields", "source")
    for one in found:
        table.add_row(
            one["dataset"].removeprefix("sha256:")[:SHORT],
            f"{one['count']:,}",
            f"{one['set_aside']:,}",
            format_size(one["size"]),
            time_text(one["at"]),
            escape(", ".join(field["name"] for field in one["schema"])),
            escape(source_text(one["source"])),
        )
    console().print(table)


@app.command("delete")
def delete_verb(
    dataset: Dataset,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if a run that is over, or a model, refers to it; these stay.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else; deletes only with --yes.")
    ] = False,
) -> None:
    """Delete a prepared dataset: those of its files that no other dataset, run, earlier result or model refers to.

    Examples:
        ganglion data delete 3f2a9c01d2e4

        ganglion data delete 3f2a9c01d2e4 --yes --force --json
    """
    with Platform() as platform:
        digest = require_digest(dataset, platform.store)
        found, history = open_digest(digest, platform.store), History(platform)
        use = data_delete.find_use(digest, history)
        use.check(dataset, force=force)
        if not (yes or json_):
            referring = f", to which {use.text} refers" if use.text else ""
            what = f"{found.count:,} records, {format_size(found.artifact.size)}{referring}"
            typer.confirm(f"Delete dataset {digest.removeprefix('sha256:')[:SHORT]} ({what})?", abort=True)
        deleted = yes or not json_
        freed = data_delete.delete_dataset(digest, history) if deleted else 0
    if json_:
        write_json({"dataset": digest, "deleted": deleted, "freed": freed, "runs": use.runs, "models": use.models})
    else:
        console().print(f"Deleted {digest}; freed {format_size(freed)}.", soft_wrap=True)


def _prepare(
    source: PlainSource | None,
    work: Callable[[PlainSource, Platform, dict[str, Any]], PreparedDataset],
    done: str,
    *,
    of: str | None = None,
    memory: str,
    workers: int,
    json_: bool,
) -> None:
    """Carry a preparation out with progress, and show what came of it.

    Args:
        source: that is read; of a dataset, `None` for the one that it was made of.
        work: does it, given source, platform, and the options that all preparations have.
        done: the state afterwards, unless the dataset was there before.
        of: the dataset that is added to.
        memory: as it was given.
        workers: as it was given.
        json_: whether a program reads.
    """
    size, out = parse_size(memory), console(to_error=json_)
    with Platform() as platform:
        base = _open(of, platform) if of is not None else None
        if source is None:
            assert base is not None, "only a dataset knows its source"
            source = original_source(base)
        known = {made.artifact.digest for made in made_datasets(platform.store)}
        started = time.monotonic()
        runner = use_workers(platform, workers)
        with PrepareProgress(out, quiet=json_) as progress:
            options = {"memory": size, "workers": workers, "run": runner, "progress": progress}
            dataset = work(source, platform, options)
        state = "cached" if dataset.artifact.digest in known else done
        described = describe_preparation(
            dataset, state, progress.pace, before=base.count if base else 0, seconds=time.monotonic() - started
        )
    if json_:
        write_json(described)
    else:
        print_preparation(described, out)


def _open(name: str, platform: Platform) -> PreparedDataset:
    return open_digest(require_digest(name, platform.store), platform.store)
