"""A real gateway on a thread and replicas whose every step a test decides."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import numpy as np
import uvloop

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec
from ganglion.serving import frames, wire
from ganglion.serving.callers import Callers
from ganglion.serving.gateway.gateway import Gateway
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import Load
from ganglion.serving.routes import EnsembleRoute, ModelRoute, ReplicaEnd, ReplicaRoute, Routes, VersionRoute
from ganglion.serving.traffic import Traffic

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", (-1, 2)),), outputs=(TensorSpec("y", "float32", (-1,)),))
PATIENCE = 20.0


class GatewayThread:
    """The core of the gateway with its own event loop; what it reports gets into queues of the same names."""

    def __init__(self, limits: HttpLimits | None = None, port: int = 0) -> None:
        self.settled: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.loads: queue.SimpleQueue[list[Load]] = queue.SimpleQueue()
        self.traffic: queue.SimpleQueue[list[Traffic]] = queue.SimpleQueue()
        self.hanging: queue.SimpleQueue[list[Hanging]] = queue.SimpleQueue()
        self._limits, self._port = limits, port
        self._started: Future[tuple[asyncio.AbstractEventLoop, Gateway, asyncio.Event, int]] = Future()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        self._loop, self.gateway, self._stop, self.port = self._started.result(PATIENCE)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        gateway = Gateway(
            self._limits,
            settled=self.settled.put,
            loads=self.loads.put,
            traffic=self.traffic.put,
            hanging=self.hanging.put,
        )
        server = await loop.create_server(gateway.http, "127.0.0.1", self._port)
        stop = asyncio.Event()
        self._started.set_result((loop, gateway, stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()
        await gateway.close()
        await server.wait_closed()

    def apply(self, routes: Routes) -> None:
        """Put routes in force, through plain data as the controller does."""
        data = json.loads(json.dumps(routes.to_data()))

        async def apply() -> None:
            self.gateway.apply(Routes.from_data(data))

        asyncio.run_coroutine_threadsafe(apply(), self._loop).result(PATIENCE)

    def serve(self, *replicas: ScriptedReplica, generation: int = 1, **fields: Any) -> None:
        """Routes for one model `m` version 1 with these replicas; returns when the gateway is connected to them."""
        self.apply(routes(model("m", replicas, **fields), generation=generation))
        self.wait_connected(len(replicas))

    def wait_connected(self, count: int) -> None:
        """Wait until the gateway is connected to so many replicas."""

        async def connected() -> None:
            while sum(pool.connected for pool in self.gateway.catalog.pools()) < count:
                await asyncio.sleep(0.001)

        asyncio.run_coroutine_threadsafe(connected(), self._loop).result(PATIENCE)

    def drain(self) -> None:
        self._loop.call_soon_threadsafe(self.gateway.http.drain)

    def cut(self) -> None:
        """Cut every client connection, and wait until the clients can see it."""

        async def cut() -> None:
            self.gateway.http.abort()
            while self.gateway.http.connections:
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result(PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)


def model(
    name: str,
    replicas: Sequence[ScriptedReplica],
    *,
    version: int = 1,
    state: Any = "AVAILABLE",
    error: str = "",
    image: ImageInput | None = None,
    package: str = "",
    ends: Sequence[ReplicaEnd] = (),
    **fields: Any,
) -> ModelRoute:
    served = VersionRoute(
        version=version,
        state=state,
        signature=SIGNATURE,
        image=image,
        error=error,
        package=package,
        replicas=tuple(replica.route for replica in replicas),
        ends=tuple(ends),
    )
    return ModelRoute(name=name, default=fields.pop("default", version), versions=(served,), **fields)


def routes(
    *models: ModelRoute,
    generation: int = 1,
    ensembles: Sequence[EnsembleRoute] = (),
    callers: Callers | None = None,
) -> Routes:
    return Routes(generation=generation, models=models, ensembles=tuple(ensembles), callers=callers)


class ScriptedReplica:
    """Listens like a replica, keeps what it gets until a test says what becomes of it."""

    _count = 0

    def __init__(self) -> None:
        ScriptedReplica._count += 1
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._batches: queue.SimpleQueue[tuple[wire.Batch, np.ndarray]] = queue.SimpleQueue()
        self._held: list[socket.socket] = []
        self.route = ReplicaRoute(
            f"replica-{ScriptedReplica._count}", f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        )
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def next(self) -> tuple[wire.Batch, np.ndarray]:
        """The next batch: header and the input `x`."""
        return self._batches.get(timeout=PATIENCE)

    @property
    def idle(self) -> bool:
        return self._batches.empty()

    def answer(self, batch: wire.Batch, values: Any, failures: Sequence[wire.Failure] = ()) -> None:
        """Give `y` for a batch."""
        array = np.asarray(values, np.float32)
        header = wire.Answer(batch.id, wire.describe([("y", array)]), tuple(failures))
        self._held[-1].sendall(b"".join(frames.encode(header, [wire.raw(array)])))

    def echo(self) -> list[float]:
        """Answer the next batch with the first number of each instance; returns these."""
        batch, x = self.next()
        self.answer(batch, x[:, 0])
        return [float(value) for value in x[:, 0]]

    def die(self) -> None:
        """Close the listener and every connection, as the kernel does for a killed process."""
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Close every connection, and take others."""
        for connection in self._held:
            with suppress(OSError):  # the gateway may have closed it first
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            connection.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._held.append(connection)
            if self._closed:  # it came while the others were closed
                connection.close()
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        reader = frames.FrameReader()
        while True:
            try:
                data = connection.recv(2**16)
            except OSError:
                return
            if not data:
                return
            for header, body in reader.feed(data):
                batch = wire.decode_batch(header)
                tensors = wire.tensors_of(batch.tensors, body) if batch.tensors else {"x": np.zeros((0, 2))}
                self._batches.put((batch, tensors["x"]))
