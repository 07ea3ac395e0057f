"""The service that `bentoml_peer` serves."""

from __future__ import annotations

import os

import bentoml

from benchmarks.serving_peers.model import Predictor


@bentoml.service(workers=int(os.environ.get("WORKERS", "1")), traffic={"timeout": 60})
class Images:
    """The model."""

    def __init__(self) -> None:
        self.predictor = Predictor(os.environ["MODEL"], os.environ["DTYPE"])

    @bentoml.api
    def predict(self, instances: list) -> dict:
        """Probabilities of the images of one request."""
        return {"predictions": self.predictor.predict(instances).tolist()}
