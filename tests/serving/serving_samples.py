"""Small real models and images for the tests of serving."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from ganglion.artifacts.package import ImageInput, PackageManifest, Signature, TensorSpec, write_package

SIGNATURE = Signature(
    inputs=(TensorSpec("pixels", "uint8", (-1, 28, 28)),),
    outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
)


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(784, 10)).astype(np.float32) / 28


def expected(pixels: np.ndarray, seed: int) -> np.ndarray:
    """What the model of `write_classifier` gives, by NumPy."""
    logits = pixels.reshape(len(pixels), 784).astype(np.float32) / 255 @ weights(seed)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def write_classifier(folder: Path, seed: int = 0, *, image: bool = True) -> PackageManifest:
    """A package with softmax(flatten(pixels) / 255 @ weights(seed))."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["real", "scale"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [
            onnx.numpy_helper.from_array(np.array(255, np.float32), "scale"),
            onnx.numpy_helper.from_array(weights(seed), "weights"),
        ],
    )
    return _package(folder, graph, SIGNATURE, ImageInput(28, 28, "L") if image else None)


def write_lookup(folder: Path) -> PackageManifest:
    """A package with the input `index` that fails for an index beyond 3."""
    signature = Signature(
        inputs=(TensorSpec("index", "int64", (-1,)),), outputs=(TensorSpec("value", "float32", (-1,)),)
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch"])],
        [onnx.numpy_helper.from_array(np.array([0.5, 1.5, 2.5, 3.5], np.float32), "table")],
    )
    return _package(folder, graph, signature, None)


def _package(folder: Path, graph: onnx.GraphProto, signature: Signature, image: ImageInput | None) -> PackageManifest:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    with TemporaryDirectory() as temporary:
        file = Path(temporary, "model.onnx")
        onnx.save(model, str(file))
        return write_package(folder, runtime="onnx", signature=signature, files={"model.onnx": file}, image=image)


def pixels(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()
