"""`ganglion serve`: answer requests with a published model until told to end."""

from __future__ import annotations

import math
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ganglion.cli.output import console
from ganglion.core.resources import Resources
from ganglion.platform import Platform

if TYPE_CHECKING:
    from ganglion.artifacts.package import PackageManifest

_SHORT = 16
"""Numbers of an instance up to which an example is written out."""


def serve(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL[:VERSION]", help="A published model; a number or alias after `:` holds it fast."),
    ],
    replicas: Annotated[int, typer.Option(help="Processes that answer.", min=1)] = 2,
    port: Annotated[int, typer.Option(help="Port to answer on; 0 chooses a free one.", min=0, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="Address to answer on; others than this machine need another.")] = (
        "127.0.0.1"
    ),
    cpu: Annotated[float, typer.Option(help="Cores for each replica; a fraction shares one.", min=0.0)] = 0.25,
) -> None:
    """Serve a model over REST, as TensorFlow Serving does, until Ctrl-C; requests in hand are answered first.

    Without a version the newest is served, and newer ones take over as they are published.

    Examples:
        ganglion serve fashion

        ganglion serve fashion:champion --replicas 4 --port 9000
    """
    out = console()
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    with Platform() as platform:
        name, version = platform.repository.resolve(model)
        manifest = platform.repository.manifest(name, version)
        server = platform.open_server(host=host, port=port)
        wanted = version if ":" in model else None
        version = server.deploy(name, wanted, replicas=replicas, resources=Resources(cpu=cpu))
        out.print(f"Serving {name} version {version} at [bold]{server.url}[/] until Ctrl-C. Ask it with:")
        out.print(f"  {example(server.url, name, manifest)}", soft_wrap=True, markup=False)
        _wait_for_signal()
        out.print("Answering what is in hand, then ending.")


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


def _wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM; a second Ctrl-C then interrupts the end as well."""
    over = threading.Event()

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    over.wait()
