"""TensorFlow SavedModels, by their serving signature, on the CPU with one thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # has to be set before the import, which writes about the machine
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # likewise: TensorFlow takes all memory of the GPUs that it sees

import tensorflow  # type: ignore[import-not-found,import-untyped,unused-ignore]  # the package has no types
from numpy.typing import NDArray

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError
from ganglion.serving.runtime import Tensors
from ganglion.serving.strings import array_of_texts

FOLDER = "saved_model"
SIGNATURE = "serving_default"


class TensorFlowRuntime:
    """The function `serving_default` of the SavedModel in the folder `saved_model` of the package."""

    def load(self, folder: Path, manifest: PackageManifest) -> None:
        """Restore the model and compare its serving signature with the package's.

        Raises:
            ModelError: there is no SavedModel, it has no serving signature, or that has other names.
        """
        try:
            tensorflow.config.threading.set_intra_op_parallelism_threads(1)
            tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:  # another model was executed in this process
            pass
        path = folder / FOLDER
        try:
            self._model = tensorflow.saved_model.load(str(path))
        except Exception as error:  # what the library raises for a damaged model has no common base
            raise ModelError(f"TensorFlow cannot load {path}: {error}") from error
        signatures = self._model.signatures
        if SIGNATURE not in signatures:
            known = ", ".join(signatures) or "none"
            raise ModelError(f"{path} has no signature {SIGNATURE!r}; it has {known}.")
        self._function = signatures[SIGNATURE]
        takes = self._function.structured_input_signature[1]
        self._inputs = [(tensor.name, takes.get(tensor.name)) for tensor in manifest.signature.inputs]
        self._outputs = [tensor.name for tensor in manifest.signature.outputs]
        _compare("inputs", {name for name, _ in self._inputs} ^ set(takes), takes)
        gives = self._function.structured_outputs
        _compare("outputs", set(self._outputs) - set(gives), gives)

    def predict(self, inputs: Tensors) -> Tensors:
        """Call the signature's function."""
        given = {name: tensorflow.constant(inputs[name], dtype=takes.dtype) for name, takes in self._inputs}
        returned = self._function(**given)
        return {name: _array(returned[name]) for name in self._outputs}

    def settle(self, inputs: Tensors) -> None:
        """Nothing: memory between predictions is not this runtime's."""

    def close(self) -> None:
        """Drop the model."""
        del self._function, self._model


def _array(tensor: Any) -> NDArray[Any]:
    """A tensor as an array; TensorFlow has bytes for text.

    Raises:
        ModelError: they are no text.
    """
    values: NDArray[Any] = tensor.numpy()
    if values.dtype.kind != "O":
        return values
    try:
        return array_of_texts([element.decode() for element in values.reshape(-1).tolist()], values.shape)
    except UnicodeDecodeError as error:
        raise ModelError(f"The model gave bytes that are no UTF-8 text: {error}.") from error


def _compare(side: str, different: set[str], found: dict[str, object]) -> None:
    if different:
        raise ModelError(
            f"The {side} {sorted(different)} are only on one side: {SIGNATURE!r} of the SavedModel has {sorted(found)}."
        )
