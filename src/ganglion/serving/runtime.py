"""The seam between a model package and the library that executes it.

A runtime is named by the package (`onnx`, `torch`, `python`, `tensorflow`) and imported on first use, so that a replica
loads only the library that its model needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError
from ganglion.core.registry import load_object
from ganglion.serving.servable import RUNTIMES, check_servable

Tensors = dict[str, NDArray[Any]]
"""Arrays by the name that the signature gives them; the first dimension is the batch. Text is arrays of `str`."""

EXTRAS = {"onnx": "torch", "torch": "torch", "tensorflow": "tensorflow"}
"""The extra that installs the library of a runtime."""


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

    def settle(self, inputs: Tensors) -> None:
        """Give back what larger batches than `inputs` have taken, by predicting these if need be."""
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
