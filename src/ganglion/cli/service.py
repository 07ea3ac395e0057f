"""The process that `ganglion serve` becomes once it knows what to serve.

Reading a command line takes a library that a service would carry along for as long as it lives. So the command starts
Python anew in its own process, with what was said as plain data, and a service is as small as it can be.
"""

from __future__ import annotations

import io
import math
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ganglion.cli.serve_announcer import Announcer, Served
from ganglion.cli.serve_callers import CallerOptions, callers_followed
from ganglion.cli.serve_signals import EndSignals, Interrupted
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

_ZEROS: dict[str, object] = {"bool": False, "string": ""}
"""What stands for zero where it is not the number, by type."""


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
        json: whether a program reads what it says.
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
    json: bool = False


def become(order: ServiceOrder) -> NoReturn:
    """Replace this program by one that carries the order out; modules are looked for where this one does."""
    here = os.getcwd() in map(os.path.abspath, sys.path)
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        text = msgspec.json.encode(order, enc_hook=str).decode()
    except UnicodeEncodeError as error:
        raise UserError(f"A path is not written in UTF-8: {error.object!r}. Give it another name.") from None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C waits until `EndSignals` takes it
    try:
        os.execv(sys.executable, [sys.executable, *(() if here else ("-P",)), "-m", "ganglion.cli.service", text])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def serve(order: ServiceOrder) -> None:
    """Serve until Ctrl-C, SIGTERM, or until nothing is served any more; requests in hand are answered first.

    Raises:
        GanglionError: it cannot be served, or no longer.
        Interrupted: it was told to end before it served, or for the second time.
    """
    signals, announcer = EndSignals(), Announcer(json=order.json)
    server: ModelServer | None = None
    with Platform() as platform:
        try:
            models = [platform.repository.resolve(model) for model in order.models]
            platform.expect_service(models)
            server = platform.open_server(
                host=order.host,
                port=order.port,
                gateways=order.gateways,
                grpc_port=order.grpc_port,
                access_log=order.access_log,
            )
            with (
                callers_followed(server, platform.folder, order.callers) as limited,
                platform.take_commands(server, signals.end),
            ):
                served = []
                for model, (name, version) in zip(order.models, models, strict=True):
                    with announcer.loading(f"{name}:{version}"):
                        version = _deploy(server, model, order)
                    shown = example(server.url, name, platform.repository.manifest(name, version))
                    served.append(Served(name=name, version=version, example=shown))
                grpc = server.grpc.address if server.grpc is not None else None
                give_back_memory()
                signals.be_patient()  # who reads that it serves may end it at once
                announcer.ready(server.url, grpc, served, limited=limited)
                signals.wait()
            announcer.say("Answering what is in hand, then ending. Ctrl-C again cuts it.")
            server.close()
        except Interrupted:
            signals.release()
            if server is not None:
                announcer.say(cut_text(server.in_hand))
                server.close(timeout=0.0)
            raise


def cut_text(in_hand: int) -> str:
    """What is said of an end that waits for nothing.

    Args:
        in_hand: requests that are not answered.
    """
    if not in_hand:
        return "Ended at once."
    return f"Ended at once: {in_hand} request{'s were' if in_hand > 1 else ' was'} cut."


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
    zeros = {tensor.name: _zeros(tuple(map(abs, tensor.shape[1:])), _ZEROS.get(tensor.dtype, 0)) for tensor in inputs}
    instance = zeros if len(zeros) > 1 else zeros[inputs[0].name]
    return f"curl -d '{msgspec.json.encode({'instances': [instance]}).decode()}' {address}:predict"


def _zeros(shape: tuple[int, ...], zero: object) -> object:
    if not shape:
        return zero
    return [_zeros(shape[1:], zero) for _ in range(shape[0])]


def _deploy(server: ModelServer, model: str, order: ServiceOrder) -> int:
    """Serve `name`, `name:version` or `name:alias`; returns the version that answers."""
    name, _separator, selector = model.partition(":")
    version = (int(selector) if selector.isdigit() else selector) if selector else None
    return server.deploy(name, version, policy="all" if order.all_versions else None, options=order.options)


def main() -> None:
    """Carry out the order that is the only argument, and leave with the exit code of the command."""
    try:
        _open_standard_streams()
        log.configure(os.environ.get("GANGLION_LOG", "warning"))
        serve(msgspec.json.decode(sys.argv[1], type=ServiceOrder, dec_hook=lambda kind, text: kind(text)))
    except GanglionError as error:
        with suppress(OSError, AttributeError):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)


def _open_standard_streams() -> None:
    """Open what was closed (`>&-`): else a socket gets its number, and what somebody prints goes there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name is told also where there are no signs for it


if __name__ == "__main__":
    main()
