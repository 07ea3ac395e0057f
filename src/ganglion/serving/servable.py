"""Which packages can be served; what a controller has to know of them without loading anything."""

from __future__ import annotations

import math

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError, suggest

RUNTIMES = {
    "onnx": "ganglion.serving.runtimes.onnx:OnnxRuntime",
    "torch": "ganglion.serving.runtimes.torch:TorchRuntime",
    "python": "ganglion.serving.runtimes.python:PythonRuntime",
    "tensorflow": "ganglion.serving.runtimes.tensorflow:TensorFlowRuntime",
}
"""Where each runtime is."""

UNSERVED = ("bfloat16",)
"""Element types of the package format that have no NumPy type to travel in."""

TEXTLESS = ("torch",)
"""Runtimes whose library has no tensors of text."""


def check_servable(manifest: PackageManifest) -> None:
    """Refuse a package that cannot be served in batches.

    Raises:
        ModelError: the runtime is unknown, a tensor has no open first dimension or a type that cannot travel, or the
            image does not have the shape of the input.
    """
    if manifest.runtime not in RUNTIMES:
        raise ModelError(f"There is no runtime {manifest.runtime!r}. {suggest(manifest.runtime, RUNTIMES)}")
    for tensor in (*manifest.signature.inputs, *manifest.signature.outputs):
        if not tensor.shape or tensor.shape[0] != -1:
            raise ModelError(
                f"Tensor {tensor.name!r} has the shape {list(tensor.shape)}; to be served its first size has to be -1."
            )
        if tensor.dtype in UNSERVED:
            raise ModelError(f"Tensor {tensor.name!r} has the type {tensor.dtype}, which cannot be served.")
        if tensor.dtype == "string" and manifest.runtime in TEXTLESS:
            raise ModelError(
                f"Tensor {tensor.name!r} has the type string, which the runtime {manifest.runtime!r} does not have. "
                "Take numbers, or let a class of the runtime 'python' make them of text."
            )
    image = manifest.image
    if image is None:
        return
    pixels = (image.height, image.width) if image.mode == "L" else (image.height, image.width, 3)
    inputs = manifest.signature.inputs
    sizes = inputs[0].shape[1:]
    fits = len(inputs) == 1 and -1 not in sizes and math.prod(sizes) == math.prod(pixels)
    if not fits or inputs[0].dtype not in ("uint8", "float32"):
        given = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in inputs)
        raise ModelError(
            f"Images of {list(pixels)} need one input of that many pixels, uint8 or float32; the model has {given}."
        )
    if image.scale != 1 and inputs[0].dtype == "uint8":
        raise ModelError(
            f"Pixels that are multiplied by {image.scale:g} need an input of float32; the model has uint8."
        )
