"""Small real models of text for the tests of serving, in each runtime that has text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from text_contract import SIGNATURE

from ganglion.artifacts.package import PackageManifest, Signature, TensorSpec, write_package

LABEL = Signature(inputs=(TensorSpec("text", "string", (-1,)),), outputs=(TensorSpec("label", "string", (-1,)),))

PREDICTOR = """
import numpy as np

class Shout:
    def load(self, folder):
        pass

    def predict(self, batch):
        assert all(type(text) is str for text in batch["text"])
        if "refuse" in batch["text"]:
            raise ValueError("I refuse")
        if "half" in batch["text"]:
            return {"loud": [text + chr(0xD800) for text in batch["text"]], "score": batch["times"] + np.float32(0.5)}
        if "number" in batch["text"]:
            return {"loud": [1 for _ in batch["text"]], "score": batch["times"] + np.float32(0.5)}
        return {"loud": [text + "!" for text in batch["text"]], "score": (batch["times"] + 0.5).astype(np.float32)}
"""


def write_onnx(folder: Path) -> PackageManifest:
    """`loud` is the text with an exclamation mark, `score` is `times` and a half."""
    nodes = [
        helper.make_node("StringConcat", ["text", "mark"], ["loud"]),
        helper.make_node("Cast", ["times"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["real", "half"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "shout",
        [
            helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("times", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("loud", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
        ],
        [
            helper.make_tensor("mark", TensorProto.STRING, [1], [b"!"]),
            onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        ],
    )
    return _package(folder, graph, SIGNATURE, helper.make_opsetid("", 20))


def write_python(folder: Path) -> PackageManifest:
    """As `write_onnx`, by a class; it fails for `refuse`, and gives what is no text for `half` and `number`."""
    source = folder.parent / f"{folder.name}.py"
    source.write_text(PREDICTOR)
    return write_package(folder, runtime="python", signature=SIGNATURE, files={"shout.py": source}, entry="shout:Shout")


def write_labels(folder: Path, labels: Mapping[str, str]) -> PackageManifest:
    """A package from `text` to the `label` of it, `unknown` for others."""
    node = helper.make_node(
        "LabelEncoder",
        ["text"],
        ["label"],
        domain="ai.onnx.ml",
        keys_strings=list(labels),
        values_strings=list(labels.values()),
        default_string="unknown",
    )
    graph = helper.make_graph(
        [node],
        "labels",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("label", TensorProto.STRING, ["batch"])],
    )
    return _package(folder, graph, LABEL, helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3))


def _package(
    folder: Path, graph: onnx.GraphProto, signature: Signature, *operators: onnx.OperatorSetIdProto
) -> PackageManifest:
    model = helper.make_model(graph, opset_imports=list(operators), ir_version=9)
    onnx.checker.check_model(model)
    path = folder.parent / f"{folder.name}.onnx"
    onnx.save(model, str(path))
    return write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": path})
