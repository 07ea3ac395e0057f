"""Ray Serve in its throughput mode, batching, with as many replicas as asked for."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.serving_peers.model import Predictor


@serve.deployment(max_ongoing_requests=100)
class Images:
    """The model."""

    def __init__(self, file: str, dtype: str) -> None:
        self.predictor = Predictor(file, dtype)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def predict(self, images: list[Any]) -> list[Any]:
        """Probabilities of the images of several requests."""
        return list(self.predictor.predict(np.stack(images)))

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        (image,) = orjson.loads(await request.body())["instances"]
        prediction = await self.predict(np.asarray(image))
        body = orjson.dumps({"predictions": [prediction]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", _temp_dir=f"/tmp/r{port}")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    replicas = Images.options(num_replicas=int(workers), ray_actor_options={"num_cpus": 0.5})
    serve.run(replicas.bind(file, dtype), route_prefix="/m")
    ended = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)
    signal.sigwait(ended)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
