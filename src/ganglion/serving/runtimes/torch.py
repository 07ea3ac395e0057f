"""PyTorch models on the CPU with one thread: saved by `torch.export`, or as the weights of a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError
from ganglion.serving.runtime import Tensors
from ganglion.serving.runtimes.source import load_entry

FILE = "model.pt2"
"""An exported program."""

WEIGHTS = "weights.pt"
"""What `torch.save(module.state_dict(), ...)` has written, for the module that the package's entry builds."""


class TorchRuntime:
    """An exported program or, where the package has an entry, an eager module; inputs in the order of the signature."""

    def load(self, folder: Path, manifest: PackageManifest) -> None:
        """Read the exported program, or build the module and read its weights.

        Raises:
            ModelError: the file is not an exported program, or the weights are not the module's.
        """
        torch.set_num_threads(1)
        self._module = _eager(folder, manifest) if manifest.entry else load_program(folder / FILE).module()
        self._inputs = [tensor.name for tensor in manifest.signature.inputs]
        self._outputs = [tensor.name for tensor in manifest.signature.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        """Call the module without recording gradients; outputs are named in order unless they have names."""
        with torch.inference_mode():
            returned = self._module(*(_tensor(inputs[name]) for name in self._inputs))
        if isinstance(returned, Mapping):
            return {name: returned[name].numpy() for name in self._outputs if name in returned}
        values = (returned,) if isinstance(returned, torch.Tensor) else tuple(returned)
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}

    def settle(self, inputs: Tensors) -> None:
        """Nothing: memory between predictions is not this runtime's."""

    def close(self) -> None:
        """Drop the module."""
        del self._module


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read what `torch.export.save` has written.

    Raises:
        ModelError: it is damaged, or something else.
    """
    if not is_zipfile(path):  # PyTorch would write a traceback about it besides
        raise ModelError(f"PyTorch cannot load {path}: it is not what torch.export.save writes.")
    try:
        return torch.export.load(path)
    except Exception as error:  # what the library raises for a damaged file has no common base
        raise ModelError(f"PyTorch cannot load {path}: {type(error).__name__}: {error}") from error


def _eager(folder: Path, manifest: PackageManifest) -> torch.nn.Module:
    """The module that the entry builds, with the weights of the package; nothing of these is executed."""
    build, path = load_entry(folder, manifest), folder / WEIGHTS
    try:
        module: Any = build()
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        found: torch.nn.Module = module.eval()
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"PyTorch cannot build {manifest.entry!r} with the weights {path}: {type(error).__name__}: {error}"
        ) from error
    return found


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    """An array as a tensor, copied only where it may not be written to, which tensors cannot express."""
    return torch.from_numpy(values if values.flags.writeable else np.copy(values))
