"""Importing this runs a model of one node, so that what ONNX Runtime makes once in a process is made.

With its first session it registers its kernels. Processes that are forked after that share them, and load their own
model sooner.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

IDENTITY = bytes.fromhex(
    "0808 3a37 0a10 0a0178 120179 2208 4964656e74697479 120167"  # IR version 8; node y = Identity(x) of the graph g
    "5a0f 0a0178 120a 0a08 0801 1204 0a02 0801"  # input x: float32, shape [1]
    "620f 0a0179 120a 0a08 0801 1204 0a02 0801"  # output y, likewise
    "4204 0a00 1011"  # operators of version 17
)
"""A model as ONNX writes it (a `ModelProto` of onnx.proto): it answers the one number that it is given."""


def _rehearse() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # no thread of its own: what has threads cannot be forked
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(IDENTITY, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros(1, np.float32)})


_rehearse()
