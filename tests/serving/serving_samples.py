"""Small real models and images for the tests of serving."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from ganglion.artifacts.checks import CHECKS, write_checks
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


def write_classifier(
    folder: Path,
    seed: int = 0,
    *,
    image: bool = True,
    checked_as: int | None = None,
    classes: Sequence[str] = (),
) -> PackageManifest:
    """A package with softmax(flatten(pixels) / 255 @ weights(seed)); with checks of another seed, if given."""
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
    checks = None if checked_as is None else ({"pixels": pixels(3)}, {"probabilities": expected(pixels(3), checked_as)})
    return _package(folder, graph, SIGNATURE, ImageInput(28, 28, "L") if image else None, classes, checks=checks)


def write_lookup(folder: Path, size: int = 4) -> PackageManifest:
    """A package with the input `index` that gives `index + 0.5`, and fails for an index of `size` or more."""
    signature = Signature(
        inputs=(TensorSpec("index", "int64", (-1,)),), outputs=(TensorSpec("value", "float32", (-1,)),)
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch"])],
        [onnx.numpy_helper.from_array(np.arange(size, dtype=np.float32) + np.float32(0.5), "table")],
    )
    return _package(folder, graph, signature, None)


def write_sum(folder: Path) -> PackageManifest:
    """A package from the input `x` (two numbers of float32) to their sum `y`."""
    signature = Signature(inputs=(TensorSpec("x", "float32", (-1, 2)),), outputs=(TensorSpec("y", "float32", (-1,)),))
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    return _package(folder, graph, signature, None)


def write_slow(folder: Path, rounds: int = 8) -> PackageManifest:
    """A package that gives each number `x` back after `rounds` products of large matrices, some milliseconds each."""
    size = 512
    signature = Signature(inputs=(TensorSpec("x", "float32", (-1, 1)),), outputs=(TensorSpec("y", "float32", (-1, 1)),))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_on"]),
            helper.make_node("MatMul", ["before", "turn"], ["after"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [size, size]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "turn"], ["start"]),
            helper.make_node("Loop", ["rounds", "", "start"], ["end"], body=body),
            helper.make_node("ReduceSum", ["end"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "nothing"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [
            onnx.numpy_helper.from_array(np.roll(np.eye(size, dtype=np.float32), 1, axis=0), "turn"),
            onnx.numpy_helper.from_array(np.array(rounds, np.int64), "rounds"),
            onnx.numpy_helper.from_array(np.array(0, np.float32), "nothing"),
        ],
    )
    return _package(folder, graph, signature, None)


def write_mlp(folder: Path, seed: int = 0, *, hidden: int = 64, classes: Sequence[str] = ()) -> PackageManifest:
    """A package from the input `x` (12 numbers of float32) by one hidden layer to a score for each class."""
    count = len(classes) or 10
    signature = Signature(
        inputs=(TensorSpec("x", "float32", (-1, 12)),), outputs=(TensorSpec("scores", "float32", (-1, count)),)
    )
    random = np.random.default_rng(seed)
    first = random.normal(size=(12, hidden)).astype(np.float32) / 4
    second = random.normal(size=(hidden, count)).astype(np.float32) / np.sqrt(hidden)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["inner"]),
            helper.make_node("Relu", ["inner"], ["positive"]),
            helper.make_node("MatMul", ["positive", "second"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 12])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", count])],
        [
            onnx.numpy_helper.from_array(first, "first"),
            onnx.numpy_helper.from_array(second.astype(np.float32), "second"),
        ],
    )
    return _package(folder, graph, signature, None, classes)


def write_brightest(folder: Path) -> PackageManifest:
    """A package from `frames` of 512x512 uint8 to the brightest pixel of each."""
    signature = Signature(
        inputs=(TensorSpec("frames", "uint8", (-1, 512, 512)),),
        outputs=(TensorSpec("brightest", "float32", (-1,)),),
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["real"], ["brightest"], axes=[1, 2], keepdims=0),
        ],
        "brightest",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 512, 512])],
        [helper.make_tensor_value_info("brightest", TensorProto.FLOAT, ["batch"])],
    )
    return _package(folder, graph, signature, None)


def _package(
    folder: Path,
    graph: onnx.GraphProto,
    signature: Signature,
    image: ImageInput | None,
    classes: Sequence[str] = (),
    checks: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None = None,
) -> PackageManifest:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    with TemporaryDirectory() as temporary:
        file = Path(temporary, "model.onnx")
        onnx.save(model, str(file))
        files = {"model.onnx": file}
        if checks is not None:
            files[CHECKS] = Path(temporary, CHECKS)
            write_checks(files[CHECKS], *checks)
        return write_package(folder, runtime="onnx", signature=signature, files=files, image=image, classes=classes)


def pixels(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()
