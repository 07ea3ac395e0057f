"""The server of KServe's Python package, with as many workers as asked for."""

from __future__ import annotations

import sys
from typing import Any

import kserve

from benchmarks.serving_peers.model import Predictor


class Model(kserve.Model):
    """The model under KServe's interface."""

    def __init__(self, file: str, dtype: str) -> None:
        super().__init__("m")
        self._arguments = file, dtype
        self._predictor: Predictor | None = None  # made in each worker: a session cannot be sent to one
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Predict."""
        if self._predictor is None:
            self._predictor = Predictor(*self._arguments)
        return {"predictions": self._predictor.predict(payload["instances"]).tolist()}


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve."""
    server = kserve.ModelServer(http_port=int(port), workers=int(workers), enable_grpc=False, access_log_format=None)
    server.start([Model(file, dtype)])


if __name__ == "__main__":
    main(*sys.argv[1:])
