"""A floor made of our own parts: processes that are each a gateway and its model, with no process between the two.

It shows what the way to a replica costs, and what is given up for it: a model that crashes takes its gateway along, and
batches are only as large as what one of the gateways was given.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import uvloop

from ganglion.artifacts.package import read_package
from ganglion.serving.gateway import pool
from ganglion.serving.gateway.fused_link import FusedOwner, LinkOpener
from ganglion.serving.gateway.gateway import Gateway
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.model import LoadedModel
from ganglion.serving.routes import ModelRoute, ReplicaRoute, Routes, VersionRoute


class _Link(ReplicaLink):
    """A link to a model in the same process: every batch is predicted in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, route: ReplicaRoute, owner: FusedOwner) -> None:
        self._model = LoadedModel(Path(route.endpoint))
        self._model.warm(32)
        super().__init__(loop, route, owner)

    async def _connect(self, *, again: bool = False) -> None:
        self.connected = True
        self._owner.link_free(self)

    def send(self, parts: Sequence[Part]) -> None:
        """Predict and answer."""
        began = monotonic()
        names = parts[0].payload.tensors
        inputs = {name: np.concatenate([part.payload.tensors[name] for part in parts]) for name in names}
        outputs, _failures = self._model.predict(inputs)
        rows = len(next(iter(inputs.values())))
        self._owner.link_answered(self, rows, monotonic() - began)
        self._loop.call_soon(self._owner.link_free, self)
        start = 0
        for part in parts:
            end = start + part.payload.rows
            part.prediction.complete(part, {name: values[start:end] for name, values in outputs.items()})
            start = end


class _Opener(LinkOpener):
    def open(self, route: ReplicaRoute, package: str) -> ReplicaLink:
        """A link to a model here."""
        return _Link(self._loop, route, self._owner)


async def _serve(port: int, package: Path) -> None:
    gateway = Gateway()
    version = VersionRoute(
        version=1,
        state="AVAILABLE",
        signature=read_package(package).signature,
        replicas=(ReplicaRoute("here", str(package)),),
    )
    gateway.apply(Routes(generation=1, models=(ModelRoute(name="m", default=1, versions=(version,)),)))
    listener = socket.create_server(("127.0.0.1", port), backlog=1024, reuse_port=True)
    await asyncio.get_running_loop().create_server(gateway.http, sock=listener)
    await asyncio.Event().wait()


def _run(port: int, package: Path) -> None:
    pool.LinkOpener = _Opener  # type: ignore[misc]
    uvloop.run(_serve(port, package))


def main(port: str, file: str, _dtype: str, workers: str) -> None:
    """Serve until told to end."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run, args=(int(port), Path(file).parent)) for _ in range(int(workers))]
    for process in processes:
        process.start()
    ended = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)
    signal.sigwait(ended)
    for process in processes:
        process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
