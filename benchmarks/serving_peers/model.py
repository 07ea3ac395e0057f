"""The model in every server that ours is compared with: ONNX Runtime with one thread that does not spin."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime


class Predictor:
    """A session and what it takes.

    Args:
        file: the ONNX model.
        dtype: element type of its input.
    """

    def __init__(self, file: str, dtype: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._dtype = dtype

    def predict(self, instances: Any) -> Any:
        """Probabilities [instances, 10] of nested lists or an array."""
        return self._session.run(None, {"image": np.asarray(instances, self._dtype)})[0]
