"""LitServe, batching, with as many workers as asked for."""

import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.serving_peers.model import Predictor


class Api(litserve.LitAPI):
    """Predictions of the model; batches are of what waits."""

    def __init__(self, file: str, dtype: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.0)
        self._file, self._dtype = file, dtype

    def setup(self, device: str) -> None:
        """Load the model."""
        self.predictor = Predictor(self._file, self._dtype)

    def decode_request(self, request: dict) -> Any:
        """The one image of a request."""
        return np.asarray(request["instances"][0])

    def batch(self, inputs: list[Any]) -> Any:
        """Images of several requests."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Their probabilities."""
        return self.predictor.predict(x)

    def unbatch(self, output: Any) -> list[Any]:
        """One row for each."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer."""
        return {"predictions": [output.tolist()]}


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve."""
    server = litserve.LitServer(Api(file, dtype), accelerator="cpu", workers_per_device=int(workers), timeout=60)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
