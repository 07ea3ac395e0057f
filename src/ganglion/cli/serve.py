"""`ganglion serve`: answer requests with a published model until told to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganglion.cli.canary import canary_of
from ganglion.cli.serve_callers import CallerOptions
from ganglion.cli.service import ServiceOrder, become
from ganglion.core.errors import ConfigurationError, OptionError, UserError
from ganglion.core.resources import Resources, cores, format_size, parse_size
from ganglion.platform import Platform

if TYPE_CHECKING:
    from ganglion.serving.options import ServingOptions

LEAST_MEMORY = 16 * 2**20
"""Bytes that any replica needs only to load what serves a model."""

_ADDRESS = "Where it answers"
_REPLICAS = "Replicas"
_REQUESTS = "Requests"
_CALLERS = "Callers"
_VERSIONS = "Versions"


def replicas_for(cores: int) -> int:
    """How many replicas there are where nothing is said: on two cores a second one takes more than it adds."""
    return 1 if cores <= 2 else 2


REPLICAS = replicas_for(cores())


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL[:VERSION]...",
            help="Published models; a number after `:` holds one fast, an alias is followed when it is moved.",
        ),
    ],
    replicas: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_REPLICAS,
            help="Processes that answer, whatever the load.",
            min=1,
            show_default=f"{REPLICAS} on this machine, or shards",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(rich_help_panel=_ADDRESS, help="Port to answer on; 0 chooses a free one.", min=0, max=65535)
    ] = 8501,
    host: Annotated[
        str, typer.Option(rich_help_panel=_ADDRESS, help="Address to answer on; others than this machine need another.")
    ] = ("127.0.0.1"),
    gateways: Annotated[
        int,
        typer.Option(rich_help_panel=_ADDRESS, help="Processes that share the port; one that dies is replaced.", min=1),
    ] = 1,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_ADDRESS,
            help="Port for gRPC, beside REST; 0 chooses a free one.",
            min=0,
            max=65535,
            show_default="no gRPC",
        ),
    ] = None,
    access_log: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_ADDRESS, help="File to which a line is appended for each request.", show_default="none"
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_CALLERS,
            help="File of 'ganglion keys'; changes count at once.",
            show_default="the project's, if it has one",
        ),
    ] = None,
    anonymous: Annotated[
        bool, typer.Option(rich_help_panel=_CALLERS, help="Whether callers without a key are answered.")
    ] = True,
    anonymous_rate: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_CALLERS, help="Requests a second by callers without a key; 0 for no limit.", min=0.0
        ),
    ] = None,
    anonymous_concurrency: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_CALLERS, help="Their requests in hand at once, others wait; 0 for no limit.", min=0
        ),
    ] = None,
    cpu: Annotated[
        float, typer.Option(rich_help_panel=_REPLICAS, help="Cores for each replica; a fraction shares one.", min=0.0)
    ] = 0.25,
    memory: Annotated[
        str,
        typer.Option(
            rich_help_panel=_REPLICAS,
            help="Memory for each replica, such as 512MiB; nothing sets no limit.",
            show_default=False,
        ),
    ] = "",
    min_replicas: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_REPLICAS, help="Follow the load with at least so many replicas; 0 ends idle ones.", min=0
        ),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_REPLICAS, help="Follow the load with at most so many; 0 for what the machine holds.", min=0
        ),
    ] = None,
    scale_metric: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_REPLICAS,
            help="Load that is followed: concurrency, rps, cpu or memory.",
            show_default="concurrency",
        ),
    ] = None,
    scale_target: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_REPLICAS,
            help="Of it for one replica; in hand, a second or percent.",
            show_default="100, 200 or 80",
        ),
    ] = None,
    container_concurrency: Annotated[
        int,
        typer.Option(rich_help_panel=_REPLICAS, help="Requests that one replica holds at once; 0 for no limit.", min=0),
    ] = 0,
    balancing: Annotated[
        str,
        typer.Option(
            rich_help_panel=_REPLICAS,
            help="late-binding, round-robin, least-outstanding, consistent-hash or power-of-two.",
        ),
    ] = "late-binding",
    max_batch: Annotated[
        int, typer.Option(rich_help_panel=_REQUESTS, help="Instances of the largest batch.", min=1)
    ] = 32,
    max_queue: Annotated[int, typer.Option(rich_help_panel=_REQUESTS, help="Instances that may wait.", min=1)] = 4096,
    timeout: Annotated[
        float, typer.Option(rich_help_panel=_REQUESTS, help="Seconds that a request may take in all.")
    ] = 30.0,
    shards: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_REQUESTS,
            help="Cut large requests into so many parts, which replicas answer at once.",
            min=1,
            show_default="not cut",
        ),
    ] = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused",
            rich_help_panel=_REPLICAS,
            help="Let gateways answer short requests: lone ones, or all where each core has a gateway.",
        ),
    ] = False,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", rich_help_panel=_VERSIONS, help="Serve every version, asked by number.")
    ] = False,
    canary: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_VERSIONS,
            help="Percent of the requests by which newer versions are tried first.",
            show_default="all",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_VERSIONS,
            help="Percentages that follow by themselves, such as 25,50,100.",
            show_default="none",
        ),
    ] = None,
    json_: Annotated[
        bool,
        typer.Option(
            "--json", rich_help_panel=_ADDRESS, help="Print one line of JSON when it serves: url, grpc, models, pid."
        ),
    ] = False,
) -> None:
    """Serve models over REST, as TensorFlow Serving does, until Ctrl-C; requests in hand are answered first.

    Without a version the newest is served, and newer ones take over as they are published. `ganglion services` shows
    and changes what is served, from another terminal.

    Examples:
        ganglion serve fashion

        ganglion serve fashion:champion --replicas 4 --port 9000

        ganglion serve fashion digits:2 --canary 5 --steps 25,50,100

        ganglion serve fashion --min-replicas 0 --max-replicas 8 --scale-target 10

        ganglion serve fashion --fused --gateways 2 --replicas 1

        ganglion serve fashion --shards 2

        ganglion serve fashion --anonymous-rate 5 --anonymous-concurrency 2
    """
    callers = CallerOptions(keys=keys, anonymous=anonymous, rate=anonymous_rate, concurrency=anonymous_concurrency)
    scaling = {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "scale_metric": scale_metric,
        "scale_target": scale_target,
    }
    options = _options(
        replicas,
        {name: value for name, value in scaling.items() if value is not None},
        resources=Resources(cpu=cpu, memory=_memory(memory) if memory else 0),
        container_concurrency=container_concurrency,
        balancing=balancing,
        max_batch=max_batch,
        max_queue=max_queue,
        timeout=timeout,
        shards=shards,
        fused=fused,
        canary=canary_of(canary, steps),
    )
    with Platform() as platform:
        for model in models:
            platform.repository.manifest(*platform.repository.resolve(model))
    become(
        ServiceOrder(
            models=tuple(models),
            options=options,
            callers=callers,
            all_versions=all_versions,
            host=host,
            port=port,
            gateways=gateways,
            grpc_port=grpc_port,
            access_log=access_log,
            json=json_,
        )
    )


def _memory(text: str) -> int:
    """Bytes for each replica.

    Raises:
        UserError: it is no size, or less than any replica needs.
    """
    try:
        size = parse_size(text)
    except ConfigurationError as error:
        raise UserError(f"--memory: {error}") from None
    if size >= LEAST_MEMORY:
        return size
    unit = "GiB" if size < 64 else "MiB"
    hint = f" Did you mean {text}{unit}?" if text.isdigit() and 0 < size < LEAST_MEMORY // 1024 else ""
    raise UserError(
        f"--memory {text} is {format_size(size)}, and a replica needs at least {format_size(LEAST_MEMORY)}.{hint}"
    )


def _options(replicas: int | None, scaling: dict[str, Any], *, shards: int | None, **others: Any) -> ServingOptions:
    """The options that are meant: a number of replicas, one a shard where none is said, or how it follows the load.

    Raises:
        UserError: both are given, or the options contradict each other.
    """
    from ganglion.serving.options import ServingOptions
    from ganglion.serving.sharding import Sharding

    if replicas is not None and scaling:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in scaling)
        raise UserError(f"--replicas is a fixed number, and {given} follows the load; give one or the other.")
    if not scaling:
        count = max(REPLICAS, shards or 0) if replicas is None else replicas
        scaling = {"min_replicas": count, "max_replicas": count}
    sharding = Sharding(shards=shards) if shards is not None else None
    try:
        return ServingOptions(**scaling, sharding=sharding, **others)
    except OptionError as error:
        raise error.renamed(lambda name: f"--{name.replace('_', '-')}") from None
