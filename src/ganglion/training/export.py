"""From a trained model to a package that can be served: ONNX, compared with the model before it is published."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch

from ganglion.artifacts.checks import CHECKS, write_checks
from ganglion.artifacts.package import DType, Signature, TensorSpec, write_package
from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import ModelError
from ganglion.training.initial import WEIGHTS_FILE
from ganglion.training.plan import TrainingPlan
from ganglion.training.source import Columns, writable

MODEL_FILE = "model.onnx"
_SAMPLES = 4  # kept in the package, for whoever loads the model
Array = npt.NDArray[Any]


class _Served(torch.nn.Module):
    """A model as it is served: where it returns logits, it answers with probabilities."""

    def __init__(self, model: torch.nn.Module, plan: TrainingPlan) -> None:
        super().__init__()
        self.model = model
        self.classifies = plan.classifies
        self.labels = plan.labels

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.model(inputs)
        if self.classifies:
            return torch.softmax(outputs, dim=1)
        return torch.sigmoid(outputs) if self.labels else outputs


def publish(
    model: torch.nn.Module, plan: TrainingPlan, *, probe: Columns, metrics: Mapping[str, float], store: Path
) -> Artifact:
    """Package `model` and put the package into a store.

    The package has the model for ONNX Runtime, which takes the input column as it is stored, and its weights as NumPy
    arrays (`weights.npz`, by the names of the state dictionary), and some records with the model's answers
    (`checks.npz`).

    Args:
        model: trained.
        plan: what it was trained by.
        probe: held-out records, at least one, on which package and model are compared.
        metrics: of the model.
        store: folder of the artifact store.

    Returns:
        The package as an artifact of the kind `model`.

    Raises:
        ModelError: the model cannot be exported, or the exported one answers differently; nothing is published.
    """
    inputs = writable(probe[plan.input_column])
    served = _Served(model.cpu(), plan).eval()
    with torch.no_grad():
        expected: Array = served(torch.from_numpy(inputs)).numpy()
    output = "probabilities" if plan.classifies or plan.labels else "output"
    with tempfile.TemporaryDirectory(prefix="ganglion-export-") as folder:
        files = {name: Path(folder) / name for name in (MODEL_FILE, WEIGHTS_FILE, CHECKS)}
        files[MODEL_FILE].write_bytes(_to_onnx(served, inputs, plan.input_column, output))
        check_parity(files[MODEL_FILE], inputs, expected, tolerance=plan.export.tolerance)
        write_checks(
            files[CHECKS],
            {plan.input_column: inputs[:_SAMPLES]},
            {output: expected[:_SAMPLES]},
            tolerance=plan.export.tolerance,
        )
        with files[WEIGHTS_FILE].open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
        package = Path(folder) / "package"
        write_package(
            package,
            runtime="onnx",
            signature=Signature(inputs=(_spec(plan.input_column, inputs),), outputs=(_spec(output, expected),)),
            files=files,
            image=plan.export.image,
            metrics=metrics,
            lineage=plan.export.lineage,
            classes=plan.classes,
        )
        return FolderStore(store).put_tree(package, kind="model")


def check_parity(path: Path, inputs: Array, expected: Array, *, tolerance: float) -> None:
    """Compare an ONNX model with what the eager model answered.

    Args:
        path: the ONNX model.
        inputs: records [records, ...].
        expected: the eager model's outputs for them [records, ...].
        tolerance: largest absolute difference.

    Raises:
        ModelError: they differ by more, or in shape.
    """
    import onnxruntime  # starts a thread when it is imported, so never in a process that is forked from

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for part in (slice(None), slice(0, 1)):  # the size of the batch is open
        (given,) = session.run(None, {session.get_inputs()[0].name: inputs[part]})
        if given.shape != expected[part].shape:
            raise ModelError(f"The exported model returns {given.shape}, the trained one {expected[part].shape}.")
        difference = float(np.max(np.abs(given - expected[part])))
        if not difference <= tolerance:
            raise ModelError(
                f"The exported model differs from the trained one by {difference:.3g} on {len(inputs[part])} held-out "
                f"records; {tolerance:g} is allowed. Nothing was published."
            )


def _to_onnx(served: torch.nn.Module, inputs: Array, input_name: str, output_name: str) -> bytes:
    # Two records at least, as the exporter takes a size of one for fixed.
    example = torch.from_numpy(inputs if len(inputs) > 1 else np.repeat(inputs, 2, axis=0))
    with _quiet():
        try:
            program = torch.onnx.export(
                served,
                (example,),
                input_names=[input_name],
                output_names=[output_name],
                dynamic_shapes=({0: torch.export.Dim("records")},),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ModelError(f"The model cannot be exported to ONNX: {error}") from error
    proto = cast(onnx.ModelProto, program.model_proto)  # type: ignore[union-attr]  # not None with dynamo=True
    _forget_origin(proto)
    return cast(bytes, proto.SerializeToString(deterministic=True))


def _forget_origin(proto: Any) -> None:
    """Drop what the exporter notes about source code and paths, so that equal models are equal bytes."""
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in proto.graph.initializer:
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about optional packages and its own deprecations out of the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name=name, dtype=cast(DType, str(array.dtype)), shape=(-1, *array.shape[1:]))
