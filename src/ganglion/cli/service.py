"""The process that `ganglion serve` becomes once it knows what to serve.

Reading a command line takes a library that a service would carry along for as long as it lives. So the command starts
Python anew in its own process, with what was said as plain data, and a service is as small as it can be.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ganglion.cli.serve_callers import CallerOptions, callers_followed
from ganglion.core import log
from ganglion.core.config import Config
from ganglion.core.errors import GanglionError, UserError
from ganglion.core.give_back import give_back_memory
from ganglion.platform import Platform
from ganglion.serving.options import ServingOptions

if TYPE_CHECKING:
    from ganglion.artifacts.package import PackageManifest
    from ganglion.serving.controller import ModelServer

_SHORT = 16
"""Numbers of an instance up to which an example is written out."""


class ServiceOrder(Config, frozen=True, kw_only=True):
    """What is to be served, and how: what the command line said, checked.

    Attributes:
        models: `name`, `name:version` or `name:alias` of each.
        options: of all of them.
        callers: whom the service answers, and how much.
        all_versions: whether every version is served, asked by number.
        host: address to answer on.
        port: port to answer on; 0 chooses a free one.
        gateways: processes that share it.
        grpc_port: port for gRPC, if it is answered.
        access_log: file to which a line is appended for each request, if any.
    """

    models: tuple[str, ...]
    options: ServingOptions
    callers: CallerOptions
    all_versions: bool
    host: str
    port: int
    gateways: int
    grpc_port: int | None
    access_log: Path | None


def become(order: ServiceOrder) -> NoReturn:
    """Replace this program by one that carries the order out; modules are looked for where this one does."""
    here = os.getcwd() in map(os.path.abspath, sys.path)
    sys.stdout.flush()
    try:
        text = msgspec.json.encode(order, enc_hook=str).decode()
    except UnicodeEncodeError as error:
        raise UserError(f"A path is not written in UTF-8: {error.object!r}. Give it another name.") from None
    os.execv(sys.executable, [sys.executable, *(() if here else ("-P",)), "-m", "ganglion.cli.service", text])


def serve(order: ServiceOrder) -> None:
    """Serve until Ctrl-C, SIGTERM, or until nothing is served any more; requests in hand are answered first.

    Raises:
        GanglionError: it cannot be served, or no longer.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    with Platform() as platform:
        platform.expect_service([platform.repository.resolve(model) for model in order.models])
        server = platform.open_server(
            host=order.host,
            port=order.port,
            gateways=order.gateways,
            grpc_port=order.grpc_port,
            access_log=order.access_log,
        )
        over = threading.Event()
        with (
            callers_followed(server, platform.folder, order.callers) as limited,
            platform.take_commands(server, over.set),
        ):
            for model in order.models:
                name, version = _deploy(server, model, order)
                _say(f"Serving {name} version {version} at {_bold(server.url)} until Ctrl-C. Ask it with:")
                _say(f"  {example(server.url, name, platform.repository.manifest(name, version))}")
            if server.grpc is not None:
                _say(f"The Open Inference Protocol over gRPC is answered at {_bold(server.grpc.address)}.")
            if limited:
                _say("Callers are limited; 'ganglion keys list' shows how.")
            give_back_memory()
            _wait_for_end(over)
        _say("Answering what is in hand, then ending.")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text


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


def _deploy(server: ModelServer, model: str, order: ServiceOrder) -> tuple[str, int]:
    """Serve `name`, `name:version` or `name:alias`; returns the name and the version that answers."""
    name, _separator, selector = model.partition(":")
    version = (int(selector) if selector.isdigit() else selector) if selector else None
    return name, server.deploy(name, version, policy="all" if order.all_versions else None, options=order.options)


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


def main() -> None:
    """Carry out the order that is the only argument, and leave with the exit code of the command."""
    try:
        log.configure(os.environ.get("GANGLION_LOG", "warning"))
        serve(msgspec.json.decode(sys.argv[1], type=ServiceOrder, dec_hook=lambda kind, text: kind(text)))
    except GanglionError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads what is said any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
