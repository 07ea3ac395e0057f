"""What a model takes and gives, read from the file in which another tool has written it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganglion.artifacts.package import DTYPES, Signature, TensorSpec
from ganglion.core.errors import ModelError
from ganglion.core.registry import load_object

_ONNX_TYPES = {
    **{f"tensor({name})": name for name in DTYPES},
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


def signature_of_onnx(path: Path) -> Signature:
    """Inputs and outputs of an ONNX model; sizes that have a name or none are open.

    Raises:
        ModelError: ONNX Runtime is not installed, cannot read it, or it has something that is no tensor.
    """
    with _installed("onnx", "torch"):
        onnxruntime = load_object("ganglion.serving.runtimes.onnx:onnxruntime")  # sets what has to be set before
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions have no base of their own
        raise ModelError(f"ONNX Runtime cannot load {path}: {error}") from error
    inputs, outputs = (
        [_spec(tensor.name, _ONNX_TYPES.get(tensor.type, tensor.type), tensor.shape) for tensor in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    return Signature(tuple(inputs), tuple(outputs))


def external_data(path: Path) -> dict[str, Path]:
    """The files beside an ONNX model in which large ones keep their weights, by the names that the model has for them.

    Raises:
        ModelError: the package onnx, which reads the names, is not installed.
    """
    with _installed("onnx", "torch"):
        import onnx
    graph = onnx.load(str(path), load_external_data=False).graph
    names = {entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    return {name: path.parent / name for name in sorted(names)}


def _tensors(graph: Any) -> Iterator[Any]:
    """All constants of an ONNX graph, also those of the branches and loops in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def signature_of_program(path: Path) -> Signature:
    """Inputs and outputs of what `torch.export.save` has written.

    Outputs have the keys of the dictionary that the module returns; else they are called `output`, or `output_0` and so
    on where there are several.

    Raises:
        ModelError: PyTorch is not installed, cannot read it, or it takes something that is no tensor.
    """
    with _installed("torch", "torch"):
        from ganglion.serving.runtimes.torch import load_program
    program = load_program(path)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    takes, gives = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    structure = program.call_spec.out_spec
    if structure is not None and structure.type is dict:
        names: Sequence[str] = [str(key) for key in structure.context]
    else:
        names = ["output"] if len(gives) == 1 else [f"output_{number}" for number in range(len(gives))]
    if len(names) != len(gives):
        raise ModelError(
            f"{path} returns nested tensors; to be served a module returns tensors, or a dictionary of them."
        )
    return Signature(
        tuple(_of_value(str(name), values.get(str(name))) for name in takes),
        tuple(_of_value(name, values.get(str(given))) for name, given in zip(names, gives, strict=True)),
    )


def signature_of_saved_model(folder: Path) -> Signature:
    """Inputs and outputs of the function `serving_default` of a SavedModel.

    Raises:
        ModelError: TensorFlow is not installed, cannot read it, or it has no such function.
    """
    with _installed("tensorflow", "tensorflow"):
        tensorflow = load_object("ganglion.serving.runtimes.tensorflow:tensorflow")
        name = load_object("ganglion.serving.runtimes.tensorflow:SIGNATURE")
    try:
        signatures: Mapping[str, Any] = tensorflow.saved_model.load(str(folder)).signatures
    except Exception as error:  # what the library raises for a damaged model has no common base
        raise ModelError(f"TensorFlow cannot load {folder}: {error}") from error
    if name not in signatures:
        raise ModelError(f"{folder} has no signature {name!r}; it has {', '.join(signatures) or 'none'}.")
    function = signatures[name]
    inputs, outputs = (
        tuple(_spec(key, tensor.dtype.name, tensor.shape.as_list()) for key, tensor in sorted(tensors.items()))
        for tensors in (function.structured_input_signature[1], function.structured_outputs)
    )
    return Signature(inputs, outputs)


def _of_value(name: str, value: Any) -> TensorSpec:
    """The tensor that a node of an exported program stands for."""
    if not hasattr(value, "shape"):
        raise ModelError(
            f"{name!r} of the exported program is no tensor; to be served it takes and gives tensors only."
        )
    return _spec(name, str(value.dtype).removeprefix("torch."), value.shape)


def _spec(name: str, dtype: Any, shape: Sequence[Any]) -> TensorSpec:
    return TensorSpec(name, dtype, tuple(size if isinstance(size, int) and size > 0 else -1 for size in shape))


@contextmanager
def _installed(runtime: str, extra: str) -> Iterator[None]:
    """Say which extra is lacking where a library is."""
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"A model of the runtime {runtime!r} needs the package {error.name!r}: pip install 'ganglion[{extra}]'."
        ) from error
