"""Ours with replicas that follow the load; writes how many are ready whenever that changes.

The last argument is the smallest number of replicas: with 1 the windows are what they are by default, with 0 they are
short, so that the last replica goes soon.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks.serving_peers.report import tell_replicas
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.execution.supervisor import Supervisor
from ganglion.serving import ModelRepository, ModelServer
from ganglion.serving.options import ServingOptions


def main(port: str, file: str, _dtype: str, fewest: str) -> None:
    """Serve until told to end."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    resources = Resources(cpu=0.5)
    options = ServingOptions(max_replicas=6, scale_metric="concurrency", scale_target=1.0, resources=resources)
    if fewest == "0":
        options = ServingOptions(
            min_replicas=0,
            max_replicas=2,
            stable_window=1.0,
            panic_window=1.0,
            scale_down_delay=0.5,
            scale_to_zero_grace=0.5,
            resources=resources,
        )
    with tempfile.TemporaryDirectory(prefix="ganglion-bench-") as temporary:
        folder = Path(temporary)
        repository = ModelRepository(folder / "models")
        repository.publish("m", Path(file).parent)
        supervisor = Supervisor(LocalBackend(folder / "g", LocalConfig(cpu=4)), folder / "g")
        server = ModelServer(supervisor, repository, port=int(port))
        server.deploy("m", options=options)

        def ready() -> int:
            (version,) = server.status()["models"]["m"]["versions"].values()
            return int(version["ready"] + version["leaving"])

        tell_replicas(ready, ended)
        server.close()
        supervisor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
