"""Models in ONNX format, by ONNX Runtime on the CPU.

One thread computes and none spins: replicas are processes of their own, and a spinning pool takes the core from the
next replica.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # has to be set before the import, which starts a thread otherwise

import onnxruntime

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError
from ganglion.serving.runtime import Tensors

FILE = "model.onnx"


class OnnxRuntime:
    """An ONNX Runtime session with one thread."""

    def load(self, folder: Path, manifest: PackageManifest) -> None:
        """Build the session and compare its tensors with the signature.

        Raises:
            ModelError: the file is not an ONNX model, or its inputs and outputs have other names.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        path = folder / FILE
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions have no base of their own
            raise ModelError(f"ONNX Runtime cannot load {path}: {error}") from error
        self._outputs = [tensor.name for tensor in manifest.signature.outputs]
        _compare("inputs", {tensor.name for tensor in manifest.signature.inputs}, self._session.get_inputs())
        _compare("outputs", set(self._outputs), self._session.get_outputs())

    def predict(self, inputs: Tensors) -> Tensors:
        """Run the session."""
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def settle(self, inputs: Tensors) -> None:
        """Predict `inputs` and let the arena, which has grown with the largest batch, shrink to what they need."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session.run(self._outputs, inputs, options)

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _compare(side: str, described: set[str], found: list[onnxruntime.NodeArg]) -> None:
    names = {argument.name for argument in found}
    missing = described - names if side == "outputs" else described ^ names
    if missing:
        raise ModelError(f"The signature's {side} are {sorted(described)}; those of {FILE} are {sorted(names)}.")
