"""Our gateway in front of three replicas that wait in place of computing, one of them ten times as long.

They are replicas as they are, but for the model: `python -m benchmarks.serving_peers.ganglion_uneven PORT POLICY`.
Waiting takes no processor, so that what is measured is the choice of the replica and not the machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.serving import frames, wire
from ganglion.serving.gateway.gateway import Gateway
from ganglion.serving.replica import FrameServer
from ganglion.serving.routes import ModelRoute, ReplicaRoute, Routes, VersionRoute

SECONDS = (0.005, 0.005, 0.05)
"""That each replica takes for a batch."""

EACH = 0.02
"""Part of them that each further instance takes in addition."""

_SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", (-1, 2)),), outputs=(TensorSpec("y", "float32", (-1,)),))


def wait_like_a_replica(path: str, seconds: float) -> None:
    """Serve frames on a socket until the process is ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def respond(frame: frames.Frame) -> list[frames.Buffer]:
        batch = wire.decode_batch(frame[0])
        x = wire.tensors_of(batch.tensors, frame[1])["x"]
        time.sleep(seconds * (1.0 + EACH * (len(x) - 1)))
        y = np.ascontiguousarray(x[:, 0])
        return frames.encode(wire.Answer(batch.id, wire.describe([("y", y)]), ()), [wire.raw(y)])

    FrameServer(listener, respond, threading.Event()).run()


async def serve(port: int, policy: Any, paths: list[Path]) -> None:
    """Answer until told to end."""
    loop = asyncio.get_running_loop()
    gateway = Gateway()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    replicas = tuple(ReplicaRoute(path.name, f"unix:{path}") for path in paths)
    version = VersionRoute(version=1, state="AVAILABLE", signature=_SIGNATURE, replicas=replicas)
    gateway.apply(
        Routes(generation=1, models=(ModelRoute(name="m", default=1, versions=(version,), balancing=policy),))
    )
    server = await loop.create_server(gateway.http, "127.0.0.1", port)
    await ended.wait()
    server.close()
    await gateway.close()
    await server.wait_closed()


def main(port: str, policy: str) -> None:
    """Start the replicas and serve."""
    with tempfile.TemporaryDirectory(prefix="gu-") as folder:
        paths = [Path(folder, f"replica-{number}") for number in range(len(SECONDS))]
        processes = [
            multiprocessing.get_context("spawn").Process(
                target=wait_like_a_replica, args=(str(path), seconds), daemon=True
            )
            for path, seconds in zip(paths, SECONDS, strict=True)
        ]
        for process in processes:
            process.start()
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        uvloop.run(serve(int(port), policy, paths))
        for process in processes:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
