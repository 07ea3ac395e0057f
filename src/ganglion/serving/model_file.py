"""From a model that a person has, a file or a folder of another tool, to a package that can be published and served.

What a model takes and gives is read out of it where it says so (ONNX, `torch.export`, SavedModel); for a Python class
it is told. A package is loaded and asked once before anybody publishes it, as a replica would.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, cast

from ganglion.artifacts.package import DTYPES, DType, ImageInput, Runtime, Signature, TensorSpec, write_package
from ganglion.artifacts.trees import files_below
from ganglion.core.errors import GanglionError, ModelError, UserError, suggest
from ganglion.serving.model_signatures import (
    external_data,
    signature_of_onnx,
    signature_of_program,
    signature_of_saved_model,
)
from ganglion.serving.servable import check_servable

_TENSOR = re.compile(r"(?P<name>[^=]+)=(?P<dtype>\w+)(?::(?P<sizes>-?\d+(?:x-?\d+)*))?")
_IMAGE = re.compile(r"(?P<width>\d{1,6})x(?P<height>\d{1,6})(?::(?P<mode>L|RGB)(?:/(?P<divisor>[1-9]\d{0,5}))?)?")
_ADVICE = {
    ".pt": "Save it by torch.export.save(torch.export.export(...), 'model.pt2').",
    ".pth": "Save it by torch.export.save(torch.export.export(...), 'model.pt2').",
    ".keras": "Write it by model.export(folder) and give the folder.",
    ".h5": "Write it by model.export(folder) and give the folder.",
    ".pkl": "Write a Python class with load(folder) and predict(batch), and give this file by --with.",
    ".joblib": "Write a Python class with load(folder) and predict(batch), and give this file by --with.",
    ".py": "Name the class behind a colon, as predictor.py:Predictor.",
}
_OPEN_BATCH = {
    "onnx": "Export it with an open first size (torch.onnx.export: dynamic_shapes; skl2onnx: None).",
    "torch": "Export it with an open first size: torch.export.export(..., dynamic_shapes=({0: Dim('batch')},)).",
    "tensorflow": "Its serving signature has to take tensors whose first size is None.",
}


class ModelFile(NamedTuple):
    """What a package says of a model.

    Attributes:
        runtime: what executes it.
        signature: what it takes and gives.
        files: its files by their path in the package.
        entry: the class of the runtime `python`.
    """

    runtime: Runtime
    signature: Signature
    files: dict[str, Path]
    entry: str = ""


def read_model(
    source: str, *, inputs: Sequence[TensorSpec] = (), outputs: Sequence[TensorSpec] = (), others: Iterable[Path] = ()
) -> ModelFile:
    """See what a model is and what it takes and gives.

    Args:
        source: an ONNX file, a `.pt2` file of `torch.export`, a folder with a SavedModel, or `file.py:Class`.
        inputs: what a class takes; other models say it themselves.
        outputs: what it gives.
        others: files and folders that lie beside it in the package, by their names.

    Raises:
        UserError: there is no such file, it is of none of these kinds, or inputs or outputs are missing or too many.
        ModelError: it cannot be read, or not be served in batches.
    """
    file, separator, name = source.rpartition(":")
    predictor = bool(separator) and file.endswith(".py")
    path = Path(file if predictor else source)
    beside = _beside(others)
    if not path.exists():
        raise UserError(f"There is no {path}. Give a .onnx or .pt2 file, a SavedModel's folder or file.py:Class.")
    if predictor:
        return _predictor(path, name, inputs, outputs, beside)
    if inputs or outputs:
        raise UserError(f"{path} says itself what it takes and gives; inputs and outputs are for a Python class.")
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return ModelFile("tensorflow", signature_of_saved_model(path), _joined(_folder(path, "saved_model"), beside))
    if path.suffix == ".onnx":
        return ModelFile("onnx", signature_of_onnx(path), _joined({"model.onnx": path, **external_data(path)}, beside))
    if path.suffix == ".pt2":
        return ModelFile("torch", signature_of_program(path), _joined({"model.pt2": path}, beside))
    advice = _ADVICE.get(path.suffix, "Give a .onnx or .pt2 file, a SavedModel's folder or file.py:Class.")
    raise UserError(f"{path} is no model that can be served. {advice}")


def package_model(
    model: ModelFile, folder: Path, *, image: ImageInput | None = None, classes: Sequence[str] = ()
) -> None:
    """Write the package of a model, load it and ask it about zeros; what its code prints goes to standard error.

    Args:
        model: from `read_model`.
        folder: of the package; must not exist or be empty.
        image: how an encoded image becomes its only input.
        classes: names of the outputs' last dimension.

    Raises:
        ModelError: it cannot be packaged, loaded or asked.
    """
    from ganglion.serving.model import LoadedModel

    manifest = write_package(
        folder,
        runtime=model.runtime,
        signature=model.signature,
        files=model.files,
        image=image,
        classes=classes,
        entry=model.entry,
    )
    try:
        check_servable(manifest)
    except ModelError as error:
        advice = _OPEN_BATCH.get(model.runtime, "") if _fixed(model.signature) else ""
        raise ModelError(f"{error} {advice}".rstrip()) from None
    width = model.signature.outputs[0].shape[-1]
    if classes and len(model.signature.outputs) == 1 and width not in (-1, len(classes)):
        raise ModelError(f"{len(classes)} classes are given; the output's last size is {width}.")
    with redirect_stdout(sys.stderr):
        loaded = LoadedModel(folder)
        try:
            loaded.warm(2)
        except GanglionError:
            raise
        except Exception as error:  # a model may raise anything
            raise ModelError(
                f"The model loads but cannot answer zeros, by which replicas warm it: {type(error).__name__}: {error}"
            ) from error
        loaded.close()


def parse_tensor(text: str) -> TensorSpec:
    """Read `NAME=TYPE` or `NAME=TYPE:SIZExSIZE`, the sizes of one instance; -1 for an open one.

    Raises:
        UserError: the text has another form, or there is no such type.
    """
    found = _TENSOR.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text!r} is not NAME=TYPE:SIZES, such as x=float32, x=float32:12, pixels=uint8:28x28 or text=string."
        )
    if found["dtype"] not in DTYPES:
        raise UserError(f"{text!r}: there is no type {found['dtype']!r}. {suggest(found['dtype'], DTYPES)}")
    sizes = tuple(map(int, found["sizes"].split("x"))) if found["sizes"] else ()
    return TensorSpec(found["name"], cast(DType, found["dtype"]), (-1, *sizes))


def parse_image(text: str) -> ImageInput:
    """Read `WIDTHxHEIGHT`, `WIDTHxHEIGHT:MODE` or `WIDTHxHEIGHT:MODE/DIVISOR`; the mode is `L` or `RGB`.

    Raises:
        UserError: the text has another form.
    """
    found = _IMAGE.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text!r} is not WIDTHxHEIGHT:MODE, such as 28x28:L for gray, 224x224:RGB, or 224x224:RGB/255 for numbers "
            "up to 1."
        )
    scale = 1 / int(found["divisor"] or 1)
    return ImageInput(int(found["width"]), int(found["height"]), cast(Any, found["mode"] or "L"), scale)


def _predictor(
    path: Path, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], beside: Mapping[str, Path]
) -> ModelFile:
    if not path.stem.isidentifier() or not name.isidentifier():
        raise UserError(
            f"{path.name}:{name} cannot be imported; give both names that Python takes, as predictor.py:Name."
        )
    if not inputs or not outputs:
        raise UserError(
            f"What {name} takes and gives has to be said, as --input x=float32:12 --output y=float32; sizes are those "
            "of one instance."
        )
    return ModelFile(
        "python", Signature(tuple(inputs), tuple(outputs)), _joined({path.name: path}, beside), f"{path.stem}:{name}"
    )


def _beside(others: Iterable[Path]) -> dict[str, Path]:
    """Files and folders by their names in the package."""
    found: dict[str, Path] = {}
    for path in others:
        if not path.exists():
            raise UserError(f"There is no {path}, which is to lie in the package.")
        found = _joined(found, _folder(path, path.resolve().name) if path.is_dir() else {path.name: path})
    return found


def _joined(found: Mapping[str, Path], more: Mapping[str, Path]) -> dict[str, Path]:
    """Both, by their names in the package.

    Raises:
        UserError: two different files have the same name there.
    """
    for name in sorted(found.keys() & more.keys()):
        one, other = found[name], more[name]
        if one.resolve() != other.resolve():
            raise UserError(f"Both {one} and {other} would be {name!r} in the package; rename one of them.")
    return {**found, **more}


def _folder(path: Path, name: str) -> dict[str, Path]:
    return {f"{name}/{file}": path / file for file in files_below(path)}


def _fixed(signature: Signature) -> list[TensorSpec]:
    """Tensors whose first size is not open."""
    return [tensor for tensor in (*signature.inputs, *signature.outputs) if tensor.shape[:1] != (-1,)]
