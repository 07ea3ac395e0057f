"""Ours, as `ModelServer` runs it: a gateway process and replica processes of the local backend."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from pathlib import Path

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.execution.supervisor import Supervisor
from ganglion.serving import ModelRepository, ModelServer
from ganglion.serving.options import ServingOptions


def main(port: str, file: str, _dtype: str, workers: str, *, fused: bool = False) -> None:
    """Serve until told to end."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    with tempfile.TemporaryDirectory(prefix="ganglion-bench-") as temporary:
        folder = Path(temporary)
        repository = ModelRepository(folder / "models")
        repository.publish("m", Path(file).parent)
        supervisor = Supervisor(LocalBackend(folder / "g", LocalConfig(cpu=4)), folder / "g")
        server = ModelServer(supervisor, repository, port=int(port))
        count = int(workers)
        server.deploy("m", options=ServingOptions(min_replicas=count, max_replicas=count, fused=fused))
        ended.wait()
        server.close()
        supervisor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
