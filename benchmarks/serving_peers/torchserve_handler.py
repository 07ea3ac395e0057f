"""The model under TorchServe's interface."""

from __future__ import annotations

import os
from typing import Any

import orjson

from benchmarks.serving_peers.model import Predictor


class Handler:
    """Predicts the images of several requests at once."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        self.predictor = Predictor(os.environ["MODEL"], os.environ["DTYPE"])

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[Any]:
        """Answers of so many requests."""
        bodies = [request["body"] for request in requests]
        parsed = [body if isinstance(body, dict) else orjson.loads(bytes(body)) for body in bodies]
        predictions = self.predictor.predict([instance for body in parsed for instance in body["instances"]])
        return [{"predictions": [row]} for row in predictions.tolist()]
