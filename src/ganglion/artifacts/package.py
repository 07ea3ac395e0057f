"""The model package: a folder that holds a trained model and says how it is fed.

`package.json` describes it and is written last, so that a folder without one is half written and never loaded. It
lists every file with its digest and size, the signature, how images become tensors, and where the model comes from.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ganglion.artifacts import files
from ganglion.core import faults
from ganglion.core.errors import ModelError, suggest

MANIFEST = "package.json"
FORMAT = 1

Runtime = Literal["onnx", "torch", "python", "tensorflow"]
"""What executes the model: ONNX Runtime, PyTorch, a Python class of the user's, or TensorFlow."""

DType = Literal[
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "string",
]
"""Element types, by their NumPy names where they have one."""

DTYPES: tuple[str, ...] = get_args(DType)
RUNTIMES: tuple[str, ...] = get_args(Runtime)


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that goes into a model or comes out of it.

    Attributes:
        name: what the runtime calls it.
        dtype: element type.
        shape: sizes; -1 where a size is open, as that of the batch is.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("A tensor needs a name.")
        if self.dtype not in get_args(DType):
            raise ModelError(
                f"Tensor {self.name!r} has the type {self.dtype!r}. {suggest(self.dtype, get_args(DType))}"
            )
        if any(size == 0 or size < -1 for size in self.shape):
            raise ModelError(
                f"Tensor {self.name!r} has the shape {list(self.shape)}; sizes are positive, or -1 for open."
            )


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model takes and gives.

    Attributes:
        inputs: at least one, of different names.
        outputs: at least one, of different names.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if not names or len(set(names)) != len(names):
                raise ModelError(f"A signature needs {side} of different names; given: {', '.join(names) or 'none'}.")


class ImageInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an encoded image becomes the input: decoded, converted to `mode`, resized, scaled.

    The result has the shape of the input; where that has its three channels first, so have the pixels.

    Attributes:
        width: pixels.
        height: pixels.
        mode: `L` for one gray channel, `RGB` for three.
        scale: what pixels from 0 to 255 are multiplied by; other than 1 for an input of float32 only.
    """

    width: int
    height: int
    mode: Literal["L", "RGB"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.mode not in ("L", "RGB"):
            raise ModelError(f"An image input has a positive width and height and the mode L or RGB; given: {self}.")
        if not 0 < self.scale < math.inf:
            raise ModelError(f"The pixels of an image input are multiplied by a positive number; given: {self.scale}.")


class PackageFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digest and size in bytes of one file of a package."""

    digest: str
    size: int


class PackageManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `package.json`.

    Attributes:
        format: version of this description.
        runtime: what executes the model.
        signature: what it takes and gives.
        files: its files by path relative to the folder, parts joined by `/`.
        image: how an encoded image becomes the only input, if the model takes images.
        classes: names of the outputs' last dimension, in order, if it has names.
        metrics: held-out metrics by name; finite.
        lineage: where it comes from: run, step, digests of the dataset and the parameters, and the like.
        entry: `module:name` of the code that the model needs: the predictor class of the runtime `python`, or what
            builds the module of the runtime `torch` where that is no exported program. The module is a file of the
            package (`module.py`), or one that can be imported where the model runs.
    """

    format: int
    runtime: Runtime
    signature: Signature
    files: dict[str, PackageFile]
    image: ImageInput | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, float] = {}
    lineage: dict[str, str] = {}
    entry: str = ""

    def __post_init__(self) -> None:
        module, separator, name = self.entry.partition(":")
        parts = (*module.split("."), *name.split("."))
        if self.entry and not (separator and all(part.isidentifier() for part in parts)):
            raise ModelError(f"The entry {self.entry!r} of a model package is not of the form module:name.")
        if self.runtime == "python" and not self.entry:
            raise ModelError("A model of the runtime 'python' needs an entry: its predictor class, as module:Class.")
        if self.runtime in ("onnx", "tensorflow") and self.entry:
            raise ModelError(f"A model of the runtime {self.runtime!r} has no use for the entry {self.entry!r}.")


def write_package(
    folder: Path,
    *,
    runtime: Runtime,
    signature: Signature,
    files: Mapping[str, Path],
    image: ImageInput | None = None,
    metrics: Mapping[str, float] | None = None,
    lineage: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    entry: str = "",
) -> PackageManifest:
    """Copy a model's files into `folder` and describe them; when this returns, the package survives a power cut.

    Args:
        folder: must not exist or be empty.
        runtime: what executes the model.
        signature: what it takes and gives.
        files: files to copy, by their path in the package.
        image: how an encoded image becomes the input.
        metrics: held-out metrics by name.
        lineage: where the model comes from.
        classes: names of the outputs' last dimension, in order.
        entry: `module:name` of the code that the model needs; see `PackageManifest`.

    Raises:
        ModelError: something given cannot be packaged; nothing was written.
    """
    _refuse_bad_input(folder, runtime, files, metrics or {})
    manifest = PackageManifest(
        format=FORMAT,
        runtime=runtime,
        signature=signature,
        files={},
        image=image,
        classes=tuple(classes),
        metrics=dict(metrics or {}),
        lineage=dict(lineage or {}),
        entry=entry,
    )
    folder.mkdir(parents=True, exist_ok=True)
    copied = {path: _copy_in(source, folder / path) for path, source in sorted(files.items())}
    manifest = msgspec.structs.replace(manifest, files=copied)
    _write_manifest(folder, manifest)
    return manifest


def read_package(folder: Path, *, verify: bool = True) -> PackageManifest:
    """Read and check the description of the package in `folder`.

    Args:
        folder: a model package.
        verify: also read every file through and compare its digest.

    Raises:
        ModelError: the package is half written (no description), has an unknown format or key, or one of its files is
            missing, has another size or digest, or is not a file within the folder, or a symbolic link is in it.
    """
    manifest = _read_manifest(folder)
    _refuse_links(folder)
    for path, described in manifest.files.items():
        _check_file(folder, path, described, verify=verify)
    return manifest


def _refuse_bad_input(folder: Path, runtime: str, sources: Mapping[str, Path], metrics: Mapping[str, float]) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ModelError(f"{folder} is not empty; a model package is written once, into a folder of its own.")
    if runtime not in RUNTIMES:
        raise ModelError(f"There is no runtime {runtime!r}. {suggest(runtime, RUNTIMES)}")
    _refuse_bad_paths(sources)
    for path, source in sources.items():
        if not source.is_file():
            raise ModelError(f"{source}, to be packaged as {path!r}, is not a file.")
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ModelError(f"Metric {name!r} is {value}; only finite numbers describe a model.")


def _refuse_bad_paths(paths: Mapping[str, Any]) -> None:
    if not paths:
        raise ModelError("A model package needs at least one file.")
    for path in paths:
        problem = files.path_problem(path) or (path == MANIFEST and "that name is the description's")
        if problem:
            raise ModelError(f"{path!r} cannot be the path of a file in a model package: {problem}.")
    if clash := files.path_clash(paths):
        raise ModelError(f"{clash!r} is given both as a file and as a folder of the model package.")


def _copy_in(source: Path, destination: Path) -> PackageFile:
    destination.parent.mkdir(parents=True, exist_ok=True)
    digest, size = files.copy_durably(source, destination)
    return PackageFile(digest=digest, size=size)


def _write_manifest(folder: Path, manifest: PackageManifest) -> None:
    temporary = folder / f".{MANIFEST}"
    content = msgspec.json.format(msgspec.json.encode(manifest))
    files.write_durably(temporary, (content, b"\n"))
    files.sync_tree(folder)
    faults.point("artifacts.package", folder=str(folder))
    temporary.rename(folder / MANIFEST)
    files.sync_folder(folder)
    files.sync_folder(folder.parent)


_LARGEST_MANIFEST = 16 * 2**20
"""Bytes; who looks after a repository reads the description of what is damaged again and again."""


def _read_manifest(folder: Path) -> PackageManifest:
    path = folder / MANIFEST
    if path.is_symlink():
        raise ModelError(f"{path} is a symbolic link; the description of a model package has to lie in it.")
    if not path.is_file():
        state = "is half written" if folder.is_dir() else "does not exist"
        raise ModelError(f"The model package {folder} {state}: there is no {MANIFEST} in it.")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise ModelError(f"{path} has more than {_LARGEST_MANIFEST} bytes.")
    try:
        content = msgspec.json.decode(path.read_bytes())
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise ModelError(f"{path}: format {content.get('format')!r}; this version reads format {FORMAT}.")
        manifest = msgspec.convert(content, PackageManifest)
        _refuse_bad_paths(manifest.files)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} does not parse: {error}.") from error
    except ModelError as error:
        raise ModelError(f"The model package {folder} is invalid: {error}") from error
    return manifest


def _refuse_links(folder: Path) -> None:
    """Refuse links also where no file is described: libraries that are given the folder would follow them."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (place := Path(parent, name)).is_symlink():
                raise ModelError(
                    f"The model package {folder} has a symbolic link at {str(place.relative_to(folder))!r}; its files "
                    "have to be in it."
                )


def _check_file(folder: Path, path: str, described: PackageFile, *, verify: bool) -> None:
    place = folder / path
    if not place.is_file():
        raise ModelError(f"The model package {folder} lacks its file {path!r}.")
    size = place.stat().st_size
    if size != described.size:
        raise ModelError(f"{place} is damaged: {size} bytes; {MANIFEST} says {described.size}.")
    if verify:
        digest, _ = files.digest_file(place)
        if digest != described.digest:
            raise ModelError(f"{place} is damaged: its digest is {digest}; {MANIFEST} says {described.digest}.")
