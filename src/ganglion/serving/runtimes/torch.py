"""Models saved by `torch.export`, executed by PyTorch on the CPU with one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError
from ganglion.serving.runtime import Tensors

FILE = "model.pt2"


class TorchRuntime:
    """An exported program; inputs are given in the order of the signature."""

    def load(self, folder: Path, manifest: PackageManifest) -> None:
        """Read the exported program.

        Raises:
            ModelError: the file is not an exported program.
        """
        torch.set_num_threads(1)
        path = folder / FILE
        try:
            self._module = torch.export.load(path).module()
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise ModelError(f"PyTorch cannot load {path}: {error}") from error
        self._inputs = [tensor.name for tensor in manifest.signature.inputs]
        self._outputs = [tensor.name for tensor in manifest.signature.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        """Call the module without recording gradients; outputs are named in order unless they have names."""
        with torch.inference_mode():
            returned = self._module(*(torch.from_numpy(inputs[name]) for name in self._inputs))
        if isinstance(returned, Mapping):
            return {name: returned[name].numpy() for name in self._outputs}
        values = (returned,) if isinstance(returned, torch.Tensor) else tuple(returned)
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Drop the module."""
        del self._module
