"""`ganglion services`: what `ganglion serve` serves in other processes of the project, and how it is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ganglion.cli import services_logs
from ganglion.cli.canary import canary_of
from ganglion.cli.output import console, make_table, write_json
from ganglion.core.project import find_folder

if TYPE_CHECKING:
    from ganglion.serving.service_client import ServiceClient
    from ganglion.serving.service_messages import Command

app = typer.Typer(help="What is served now.")
app.command()(services_logs.logs)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A model that is served.")]
Url = Annotated[str | None, typer.Option(help="Of the service that is meant, where several serve the model.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait; what was begun goes on when they are over.", min=0.0)]

_STYLES = {"AVAILABLE": "green", "LOADING": "yellow", "UNLOADING": "magenta", "END": "dim"}


@app.callback(invoke_without_command=True)
def services(context: typer.Context) -> None:
    """What is served now; without a verb, the list."""
    if context.invoked_subcommand is None:
        list_services()


@app.command("list")
def list_services(json_: AsJson = False) -> None:
    """List the models and ensembles that are served, by every `ganglion serve` of this project.

    Examples:
        ganglion services list

        ganglion services list --json
    """
    states = _client().states()
    if json_:
        write_json(states)
        return
    if not states:
        console().print("Nothing is served. Start a service with 'ganglion serve MODEL'.")
        return
    table = make_table("name", ">version", "policy", "state", ">ready", "canary", "url")
    for state in states:
        for name, model in state["models"].items():
            answering = model["versions"].get(model["default"], {})
            ready = f"{answering['ready']}/{answering['replicas']}" if answering else ""
            shown = _state_text(answering.get("state", ""))
            table.add_row(name, _text(model["default"]), model["policy"], shown, ready, _canary(model), state["url"])
        for name, ensemble in state["ensembles"].items():
            members = escape(f"{ensemble['how']} of {', '.join(ensemble['members'])}")
            table.add_row(name, "", members, "", "", "", state["url"])
    table.columns[0].no_wrap, table.columns[-1].overflow = True, "fold"  # they are typed again, so shown whole
    console().print(table)


@app.command()
def show(name: Name, url: Url = None, json_: AsJson = False) -> None:
    """Show the versions of a model that is served, and what has become of the last one that was tried.

    Examples:
        ganglion services show fashion

        ganglion services show fashion --json
    """
    from ganglion.serving.service_client import ask
    from ganglion.serving.service_messages import Describe

    entry = _client().find(name, url)
    state = ask(entry, Describe())
    ensemble = state["ensembles"].get(name)
    described: dict[str, Any] = {
        "name": name,
        "url": state["url"],
        "process": entry.pid,
        **(ensemble if ensemble is not None else state["models"].get(name, {})),
    }
    for version in described.get("versions", {}).values():
        version["logs"] = str(find_folder() / "jobs" / version["job"])
    if json_:
        write_json(described)
        return
    out = console()
    out.print(f"[bold]{name}[/] at {described['url']} (process {described['process']})", soft_wrap=True)
    if ensemble is not None:
        out.print(f"{described['how']} of {', '.join(described['members'])}", soft_wrap=True, markup=False)
        return
    out.print(f"serves {described['policy']}; version {_text(described['default'])} answers", soft_wrap=True)
    table = make_table(">version", "state", ">ready", ">leaving", "job", "problem")
    for number, version in described["versions"].items():
        table.add_row(
            _text(number),
            _state_text(version["state"]),
            f"{version['ready']}/{version['replicas']}",
            str(version["leaving"] or ""),
            version["job"],
            escape(version["error"] or version["hung"]),
        )
    out.print(table)
    out.print(f"what they wrote: ganglion services logs {name}", soft_wrap=True, markup=False)
    for number, version in described["versions"].items():
        out.print(f"  version {number}: {version['logs']}/*/*/log", soft_wrap=True, markup=False)
    if described["canary"] is not None:
        out.print(f"canary: {_canary(described)}: {described['canary']['state']}", soft_wrap=True, markup=False)
    if described["last_rollout"]:
        out.print(described["last_rollout"], soft_wrap=True, markup=False)


@app.command()
def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(metavar="N", help="Replicas of each of its versions.", min=1)],
    url: Url = None,
    timeout: Timeout = 120.0,
) -> None:
    """Serve a model with so many replicas, whatever the load.

    Examples:
        ganglion services scale fashion 4
    """
    from ganglion.serving.service_messages import Scale

    _ask(name, url, Scale(model=name, replicas=replicas, timeout=timeout), timeout)
    console().print(f"{name} is served by {replicas} replicas.")


@app.command()
def rollout(
    reference: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION]", help="A model that is served; a number or alias after `:`.")
    ],
    canary: Annotated[
        float | None, typer.Option(help="Percent of the requests by which it is tried first.", show_default="all")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Percentages that follow by themselves, such as 25,50,100.", show_default="none"),
    ] = None,
    url: Url = None,
    timeout: Timeout = 120.0,
) -> None:
    """Change to another version, without one to the newest; requests in hand are answered, none is lost.

    A version that is tried is rolled back by itself where it fails or is slow. It takes over at 100 percent, or when it
    is rolled out again without `--canary`.

    Examples:
        ganglion services rollout fashion:3

        ganglion services rollout fashion:3 --canary 10

        ganglion services rollout fashion:3 --canary 5 --steps 25,50,100
    """
    from ganglion.serving.service_messages import RollOut

    name, separator, selector = reference.partition(":")
    version = (int(selector) if selector.isdigit() else selector) if separator else None
    tried = canary_of(canary, steps)
    command = RollOut(model=name, version=version, canary=tried, timeout=timeout)
    served = _ask(name, url, command, timeout)
    part = f" gets {tried.percent:g} percent of the requests" if tried is not None else " answers"
    console().print(f"Version {served} of {name}{part}.")


@app.command()
def rollback(name: Name, url: Url = None, timeout: Timeout = 120.0) -> None:
    """Leave the version that is tried; without one, go back to the version that answered before, and stay with it.

    Examples:
        ganglion services rollback fashion
    """
    from ganglion.serving.service_messages import RollBack

    served = _ask(name, url, RollBack(model=name, timeout=timeout), timeout)
    console().print(f"Version {served} of {name} answers.")


@app.command()
def stop(name: Name, url: Url = None, timeout: Timeout = 60.0) -> None:
    """Serve a model or an ensemble no longer; the process that served it ends with the last one.

    Examples:
        ganglion services stop fashion
    """
    from ganglion.serving.service_messages import Stop

    left = _ask(name, url, Stop(model=name, timeout=timeout), timeout)
    still = f"; {', '.join(left)} still served" if left else "; nothing is served there any more"
    console().print(f"{name} is served no longer{still}.")


def _client() -> ServiceClient:
    from ganglion.serving.service_client import ServiceClient

    return ServiceClient(find_folder())


def _ask(name: str, url: str | None, command: Command, timeout: float) -> Any:
    from ganglion.serving.service_client import ask

    return ask(_client().find(name, url), command, timeout)


def _canary(model: dict[str, Any]) -> str:
    canary = model["canary"]
    return f"version {canary['version']} at {canary['percent']:g} %" if canary is not None else ""


def _state_text(state: str) -> str:
    return f"[{_STYLES.get(state, 'white')}]{state}[/]"


def _text(version: int | None) -> str:
    return "none" if version is None else str(version)
