"""The seam between a model package and the library that executes it.

A runtime is named by the package (`onnx`, `torch`, `python`, `tensorflow`) and imported on first use, so that a replica
loads only the library that its model needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError, suggest
from ganglion.core.registry import load_object

Tensors = dict[str, NDArray[Any]]
"""Arrays by the name that the signature gives them; the first dimension is the batch."""

RUNTIMES = {
    "onnx": "ganglion.serving.runtimes.onnx:OnnxRuntime",
    "torch": "ganglion.serving.runtimes.torch:TorchRuntime",
    "python": "ganglion.serving.runtimes.python:PythonRuntime",
    "tensorflow": "ganglion.serving.runtimes.tensorflow:TensorFlowRuntime",
}
"""Where each runtime is."""

EXTRAS = {"onnx": "torch", "torch": "torch", "tensorflow": "tensorflow"}
"""The extra that installs the library of a runtime."""

UNSERVED = ("bfloat16", "string")
"""Element types of the package format that have no NumPy type to travel in."""


class Runtime(Protocol):
    """A loaded model; used by one thread."""

    def load(self, folder: Path, manifest: PackageManifest) -> None:
        """Read the model of the package in `folder`; called once, first."""
        ...

    def predict(self, inputs: Tensors) -> Tensors:
        """Compute the outputs of one batch; names, dtypes and shapes are the signature's.

        Args:
            inputs: arrays that may be read-only and are not the runtime's to keep.

        Raises:
            DataError: the instances are at fault, not the model. Any other exception is the model's.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


def load_runtime(folder: Path, manifest: PackageManifest) -> Runtime:
    """Load the model of a package.

    Raises:
        ModelError: the runtime is unknown or its library is not installed, or the model cannot be batched.
    """
    check_servable(manifest)
    try:
        runtime = cast(Runtime, load_object(RUNTIMES[manifest.runtime])())
    except ImportError as error:
        extra = EXTRAS[manifest.runtime]
        raise ModelError(
            f"The runtime {manifest.runtime!r} needs the package {error.name!r}: pip install 'ganglion[{extra}]'."
        ) from error
    runtime.load(folder, manifest)
    return runtime


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
    image = manifest.image
    if image is None:
        return
    pixels = (image.height, image.width) if image.mode == "L" else (image.height, image.width, 3)
    inputs = manifest.signature.inputs
    sizes = inputs[0].shape[1:]
    fits = len(inputs) == 1 and -1 not in sizes and np.prod(sizes) == np.prod(pixels)
    if not fits or inputs[0].dtype != "uint8":
        given = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in inputs)
        raise ModelError(f"Images of {list(pixels)} need one uint8 input of that many pixels; the model has {given}.")
