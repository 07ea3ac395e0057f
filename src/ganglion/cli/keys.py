"""`ganglion keys`: who may ask the services of this project, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape

from ganglion.cli.output import console, make_table, write_json
from ganglion.core.errors import UserError
from ganglion.core.project import find_folder

if TYPE_CHECKING:
    from ganglion.serving.callers import CallerLimit
    from ganglion.serving.key_file import KeyFile

app = typer.Typer(help="API keys of callers, and how much callers may ask for.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the caller is called.")]
File = Annotated[
    Path | None,
    typer.Option("--file", help="The file with the keys.", show_default="keys.json in the project folder"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Rate = Annotated[float | None, typer.Option(help="Requests a second in the long run; 0 for no limit.", min=0.0)]
Burst = Annotated[int | None, typer.Option(help="Requests that may come at once after a pause.", min=1)]
Concurrency = Annotated[int | None, typer.Option(help="Requests in hand at once; others wait. 0 for no limit.", min=0)]
Waiting = Annotated[int | None, typer.Option(help="Requests that may wait; others are refused.", min=0)]


@app.command()
def add(
    name: Name,
    rate: Rate = None,
    burst: Burst = None,
    concurrency: Concurrency = None,
    waiting: Waiting = None,
    file: File = None,
) -> None:
    """Make a key and print it, this once: only its digest is kept. With options it has a limit of its own.

    Examples:
        ganglion keys add ann

        ganglion keys add nightly-report --rate 50 --concurrency 3
    """
    keys = key_file(file)
    given = changes(rate, burst, concurrency, waiting)
    own = changed(keys.read().authenticated, given) if given else None
    key = keys.add(name, own)
    typer.echo(key)
    console(to_error=True).print(
        f"This is the key of {escape(name)}; it cannot be shown again. Callers send it as "
        "'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
        soft_wrap=True,
    )


@app.command("list")
def list_keys(file: File = None, json_: AsJson = False) -> None:
    """List callers with a key and every limit; the keys themselves are known to nobody here.

    Examples:
        ganglion keys list

        ganglion keys list --json
    """
    keys = key_file(file)
    callers = keys.read()
    rows: list[tuple[str, str, str, CallerLimit | None]] = [
        ("(anonymous)", "", "", callers.anonymous),
        ("(authenticated)", "", "", callers.authenticated),
        *((key.name, key.id, key.created, key.limit or callers.authenticated) for key in callers.keys),
    ]
    if json_:
        write_json(
            {
                "file": str(keys.path),
                "anonymous": _limit(callers.anonymous),
                "authenticated": _limit(callers.authenticated),
                "keys": [
                    {"name": key.name, "id": key.id, "created": key.created, "limit": _limit(key.limit)}
                    for key in callers.keys
                ],
            }
        )
        return
    table = make_table("caller", "key", "created", ">a second", ">burst", ">at once", ">waiting")
    for name, id_, created, limit in rows:
        table.add_row(escape(name), id_, created, *_cells(limit))
    console().print(table)


@app.command()
def revoke(name: Name, file: File = None) -> None:
    """Take a key away; running services refuse it within a second. Requests in hand are answered.

    Examples:
        ganglion keys revoke ann
    """
    revoked = key_file(file).revoke(name)
    console().print(f"Revoked the key {revoked.id} of {escape(name)}.", soft_wrap=True)


@app.command()
def limit(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A caller; or 'anonymous' or 'authenticated' with --class.")
    ],
    class_: Annotated[
        bool, typer.Option("--class", help="NAME is a class of callers: anonymous or authenticated.")
    ] = False,
    rate: Rate = None,
    burst: Burst = None,
    concurrency: Concurrency = None,
    waiting: Waiting = None,
    clear: Annotated[bool, typer.Option("--clear", help="No limit of its own: that of its class counts.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse all callers without a key.")] = False,
    file: File = None,
) -> None:
    """Change what a caller, or a class of callers, may ask for; what is not given stays as it is.

    Examples:
        ganglion keys limit ann --rate 100 --burst 20

        ganglion keys limit --class anonymous --concurrency 2 --rate 5

        ganglion keys limit --class anonymous --refuse

        ganglion keys limit ann --clear
    """
    keys = key_file(file)
    given = changes(rate, burst, concurrency, waiting)
    if (bool(given), clear, refuse).count(True) != 1:
        raise UserError("Give what is to change, such as --rate 10; or --clear alone; or --refuse alone.")
    if not class_:
        if refuse:
            raise UserError(f"--refuse is for '--class anonymous'; to take the key of {name!r} away, revoke it.")
        keys.limit(name, lambda before: None if clear else changed(before, given))
    elif name == "anonymous":
        if clear:
            raise UserError("--clear is for callers with a key; a class has nothing above it.")
        keys.limit_anonymous(lambda before: None if refuse else changed(before, given))
    elif name == "authenticated":
        if clear or refuse:
            raise UserError("For the class of callers with a key only limits can be given.")
        keys.limit_authenticated(lambda before: changed(before, given))
    else:
        raise UserError(f"There is no class {name!r}. Allowed: anonymous, authenticated.")


def key_file(given: Path | None) -> KeyFile:
    """The file that is meant."""
    from ganglion.serving.key_file import NAME, KeyFile

    return KeyFile(given if given is not None else find_folder() / NAME)


def changes(
    rate: float | None, burst: int | None, concurrency: int | None, waiting: int | None
) -> dict[str, float | int | None]:
    """Fields of a `CallerLimit` that were given; 0 as rate or concurrency is no limit."""
    given: dict[str, float | int | None] = {}
    if rate is not None:
        given["rate"] = rate or None
    if concurrency is not None:
        given["concurrency"] = concurrency or None
    if burst is not None:
        given["burst"] = burst
    if waiting is not None:
        given["waiting"] = waiting
    return given


def changed(before: CallerLimit, given: dict[str, float | int | None]) -> CallerLimit:
    """A limit with some fields changed."""
    return msgspec.structs.replace(before, **given)


def _limit(limit: CallerLimit | None) -> dict[str, Any] | None:
    return msgspec.to_builtins(limit) if limit is not None else None


def _cells(limit: CallerLimit | None) -> tuple[str, str, str, str]:
    if limit is None:
        return "refused", "", "", ""
    return (
        f"{limit.rate:g}" if limit.rate is not None else "any",
        str(limit.burst) if limit.rate is not None else "",
        str(limit.concurrency) if limit.concurrency is not None else "any",
        str(limit.waiting) if limit.concurrency is not None else "",
    )
