"""Ray Serve with replicas that follow the load; writes how many run whenever that changes.

The last argument is the smallest number of replicas. Ray's own delays before it adds and takes away replicas (30 s and
600 s) are set to the shortest that it takes, or as long as ours.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import serve

from benchmarks.serving_peers.ray_peer import Images
from benchmarks.serving_peers.report import tell_replicas

AUTOSCALING: dict[str, dict[str, Any]] = {
    "0": {
        "min_replicas": 0,
        "initial_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 100,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 2.0,
        "look_back_period_s": 1.0,
        "metrics_interval_s": 0.5,
    },
    "1": {
        "min_replicas": 1,
        "max_replicas": 6,
        "target_ongoing_requests": 1,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 50.0,
        "look_back_period_s": 2.0,
        "metrics_interval_s": 0.5,
    },
}


def running() -> int:
    """Replicas that run."""
    applications = serve.status().applications
    return sum(
        deployment.replica_states.get("RUNNING", 0)
        for application in applications.values()
        for deployment in application.deployments.values()
    )


def main(port: str, file: str, dtype: str, fewest: str) -> None:
    """Serve."""
    ended = threading.Event()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", _temp_dir=f"/tmp/r{port}")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    replicas = Images.options(
        max_queued_requests=-1, autoscaling_config=AUTOSCALING[fewest], ray_actor_options={"num_cpus": 0.5}
    )
    serve.run(replicas.bind(file, dtype), route_prefix="/m")
    tell_replicas(running, ended)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
