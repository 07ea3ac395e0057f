"""`ganglion serve`: answer requests with a published model until told to end."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ganglion.cli.output import console
from ganglion.cli.serve_callers import CallerOptions, callers_followed
from ganglion.cli.services import canary_of
from ganglion.core.errors import UserError
from ganglion.core.resources import Resources, parse_size
from ganglion.platform import Platform

if TYPE_CHECKING:
    from ganglion.artifacts.package import PackageManifest
    from ganglion.serving.controller import ModelServer
    from ganglion.serving.options import ServingOptions

_REPLICAS = 2
"""Replicas where nothing is said."""

_SHORT = 16
"""Numbers of an instance up to which an example is written out."""


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL[:VERSION]...",
            help="Published models; a number after `:` holds one fast, an alias is followed when it is moved.",
        ),
    ],
    replicas: Annotated[
        int | None, typer.Option(help="Processes that answer, whatever the load.", min=1, show_default="2")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to answer on; 0 chooses a free one.", min=0, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="Address to answer on; others than this machine need another.")] = (
        "127.0.0.1"
    ),
    gateways: Annotated[int, typer.Option(help="Processes that share the port; one that dies is replaced.", min=1)] = 1,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            help="Port for gRPC, beside REST; 0 chooses a free one.", min=0, max=65535, show_default="no gRPC"
        ),
    ] = None,
    access_log: Annotated[
        Path | None, typer.Option(help="File to which a line is appended for each request.", show_default="none")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="File of 'ganglion keys'; changes count at once.", show_default="the project's, if it has one"
        ),
    ] = None,
    anonymous: Annotated[bool, typer.Option(help="Whether callers without a key are answered.")] = True,
    anonymous_rate: Annotated[
        float | None, typer.Option(help="Requests a second by callers without a key; 0 for no limit.", min=0.0)
    ] = None,
    anonymous_concurrency: Annotated[
        int | None, typer.Option(help="Their requests in hand at once, others wait; 0 for no limit.", min=0)
    ] = None,
    cpu: Annotated[float, typer.Option(help="Cores for each replica; a fraction shares one.", min=0.0)] = 0.25,
    memory: Annotated[
        str, typer.Option(help="Memory for each replica, such as 512MiB; nothing sets no limit.", show_default=False)
    ] = "",
    min_replicas: Annotated[
        int | None, typer.Option(help="Follow the load with at least so many replicas; 0 ends idle ones.", min=0)
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="Follow the load with at most so many; 0 for what the machine holds.", min=0)
    ] = None,
    scale_metric: Annotated[
        str | None,
        typer.Option(help="Load that is followed: concurrency, rps, cpu or memory.", show_default="concurrency"),
    ] = None,
    scale_target: Annotated[
        float | None,
        typer.Option(help="Of it for one replica; in hand, a second or percent.", show_default="100, 200 or 80"),
    ] = None,
    container_concurrency: Annotated[
        int, typer.Option(help="Requests that one replica holds at once; 0 for no limit.", min=0)
    ] = 0,
    balancing: Annotated[
        str, typer.Option(help="late-binding, round-robin, least-outstanding, consistent-hash or power-of-two.")
    ] = "late-binding",
    max_batch: Annotated[int, typer.Option(help="Instances of the largest batch.", min=1)] = 32,
    max_queue: Annotated[int, typer.Option(help="Instances that may wait.", min=1)] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take in all.")] = 30.0,
    fused: Annotated[
        bool, typer.Option("--fused", help="Let the gateway answer short requests itself while it has one at a time.")
    ] = False,
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Serve every version, asked by number.")] = False,
    canary: Annotated[
        float | None,
        typer.Option(help="Percent of the requests by which newer versions are tried first.", show_default="all"),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Percentages that follow by themselves, such as 25,50,100.", show_default="none")
    ] = None,
) -> None:
    """Serve models over REST, as TensorFlow Serving does, until Ctrl-C; requests in hand are answered first.

    Without a version the newest is served, and newer ones take over as they are published. `ganglion services` shows
    and changes what is served, from another terminal.

    Examples:
        ganglion serve fashion

        ganglion serve fashion:champion --replicas 4 --port 9000

        ganglion serve fashion digits:2 --canary 5 --steps 25,50,100

        ganglion serve fashion --min-replicas 0 --max-replicas 8 --scale-target 10

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
        resources=Resources(cpu=cpu, memory=parse_size(memory) if memory else 0),
        container_concurrency=container_concurrency,
        balancing=balancing,
        max_batch=max_batch,
        max_queue=max_queue,
        timeout=timeout,
        fused=fused,
        canary=canary_of(canary, steps),
    )
    out = console()
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    with Platform() as platform:
        for model in models:
            platform.repository.resolve(model)
        server = platform.open_server(
            host=host, port=port, gateways=gateways, grpc_port=grpc_port, access_log=access_log
        )
        over = threading.Event()
        with callers_followed(server, platform.folder, callers) as limited, platform.take_commands(server, over.set):
            for model in models:
                name, version = _deploy(server, model, options, all_versions=all_versions)
                out.print(f"Serving {name} version {version} at [bold]{server.url}[/] until Ctrl-C. Ask it with:")
                shown = example(server.url, name, platform.repository.manifest(name, version))
                out.print(f"  {shown}", soft_wrap=True, markup=False)
            if server.grpc is not None:
                out.print(f"The Open Inference Protocol over gRPC is answered at [bold]{server.grpc.address}[/].")
            if limited:
                out.print("Callers are limited; 'ganglion keys list' shows how.")
            _wait_for_end(over)
        out.print("Answering what is in hand, then ending.")


def _options(replicas: int | None, scaling: dict[str, Any], **others: Any) -> ServingOptions:
    """The options that are meant: a number of replicas, or how it follows the load.

    Raises:
        UserError: both are given, or the options contradict each other.
    """
    from ganglion.serving.options import ServingOptions

    if replicas is not None and scaling:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in scaling)
        raise UserError(f"--replicas is a fixed number, and {given} follows the load; give one or the other.")
    if not scaling:
        count = _REPLICAS if replicas is None else replicas
        scaling = {"min_replicas": count, "max_replicas": count}
    return ServingOptions(**scaling, **others)


def example(url: str, name: str, manifest: PackageManifest) -> str:
    """A command that asks the service: with a picture where it takes images, with zeros where they are few."""
    address = f"{url}/v1/models/{name}"
    if manifest.image is not None:
        picture = "'\"$(base64 < image.png | tr -d '\\n')\"'"
        body = '{"instances":[{"image_bytes":{"b64":"' + picture + '"}}]}'
        return f"curl -d '{body}' {address}:predict"
    inputs = manifest.signature.inputs
    if sum(math.prod(map(abs, tensor.shape[1:])) for tensor in inputs) > _SHORT:
        return f"curl {address}/metadata"
    zeros = {tensor.name: _zeros(tuple(map(abs, tensor.shape[1:])), tensor.dtype == "bool") for tensor in inputs}
    instance = zeros if len(zeros) > 1 else zeros[inputs[0].name]
    return f"curl -d '{msgspec.json.encode({'instances': [instance]}).decode()}' {address}:predict"


def _zeros(shape: tuple[int, ...], false: bool) -> object:
    if not shape:
        return False if false else 0
    return [_zeros(shape[1:], false) for _ in range(shape[0])]


def _deploy(server: ModelServer, model: str, options: ServingOptions, *, all_versions: bool) -> tuple[str, int]:
    """Serve `name`, `name:version` or `name:alias`; returns the name and the version that answers."""
    name, _separator, selector = model.partition(":")
    version = (int(selector) if selector.isdigit() else selector) if selector else None
    return name, server.deploy(name, version, policy="all" if all_versions else None, options=options)


def _wait_for_end(over: threading.Event) -> None:
    """Wait for Ctrl-C, SIGTERM, or until nothing is served; a second Ctrl-C then interrupts the end as well.

    Args:
        over: set when nothing is served any more.
    """

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    over.wait()
