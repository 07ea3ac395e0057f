"""The models of the sharding benchmark: a network that takes its time, and the brightest pixel of a frame."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.artifacts.package import Signature, TensorSpec, write_package

HIDDEN = 1024


def write_mlp(folder: Path, features: int) -> None:
    """A package: `x` by two hidden layers of 1,024 to ten `scores`."""
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    sizes = (features, HIDDEN, HIDDEN, 10)
    nodes, constants, last = [], [], "x"
    for number, (rows, columns) in enumerate(pairwise(sizes)):
        values = (random.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        constants.append(onnx.numpy_helper.from_array(values, f"weights-{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"weights-{number}"], [f"product-{number}"]))
        final = columns == sizes[-1]
        last = "scores" if final else f"active-{number}"
        nodes.append(helper.make_node("Softmax" if final else "Relu", [f"product-{number}"], [last]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        constants,
    )
    _write(folder, graph, TensorSpec("x", "float32", (-1, features)), TensorSpec("scores", "float32", (-1, 10)))


def write_brightest(folder: Path) -> None:
    """A package: `frames` of 512x512 to the `brightest` pixel of each, after some smoothing that takes its time."""
    from onnx import TensorProto, helper

    smooth = {"kernel_shape": [9, 9], "pads": [4, 4, 4, 4], "strides": [1, 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["real", "axis"], ["channel"]),
            helper.make_node("MaxPool", ["channel"], ["pooled"], **smooth),
            helper.make_node("ReduceMax", ["pooled"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        ],
        "brightest",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 512, 512])],
        [helper.make_tensor_value_info("brightest", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    _write(folder, graph, TensorSpec("frames", "uint8", (-1, 512, 512)), TensorSpec("brightest", "float32", (-1,)))


def _write(folder: Path, graph: Any, given: TensorSpec, gives: TensorSpec) -> None:
    import onnx
    from onnx import helper

    file = folder.with_suffix(".onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    signature = Signature(inputs=(given,), outputs=(gives,))
    write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": file})
