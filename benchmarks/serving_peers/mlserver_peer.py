"""MLServer with a runtime of its own for the model, and as many parallel workers as asked for."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving_peers.model import Predictor


class Model(MLModel):
    """The model under MLServer's interface."""

    async def load(self) -> bool:
        """Load it."""
        self.predictor = Predictor(os.environ["MODEL"], os.environ["DTYPE"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Predict."""
        outputs = self.predictor.predict(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", outputs)])


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve, as MLServer's own command does."""
    os.environ["MODEL"], os.environ["DTYPE"] = file, dtype
    folder = Path(tempfile.mkdtemp())
    settings = {
        "host": "127.0.0.1",
        "http_port": int(port),
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "parallel_workers": int(workers),
        "debug": False,
    }
    model = {"name": "m", "implementation": "benchmarks.serving_peers.mlserver_peer.Model"}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.execv(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
