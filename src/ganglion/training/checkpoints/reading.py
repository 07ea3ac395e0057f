"""Going on from a checkpoint: the newest that is undamaged, if it is of this training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import torch

from ganglion.core.errors import IntegrityError
from ganglion.core.log import get_logger
from ganglion.training.checkpoints import manifest as manifests
from ganglion.training.checkpoints.archive import Archive
from ganglion.training.checkpoints.manifest import Form, Manifest, Recipe
from ganglion.training.checkpoints.settings import Difference
from ganglion.training.checkpoints.skeleton import put_together

REST = "state.msgpack"
"""Name of the file with what is no tensor."""

SUFFIX = ".safetensors"
"""Of the files with the tensors of each part of the state."""

MODEL = "model"
"""The part of a state that has the tensors of the model, by name."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint that was read.

    Attributes:
        manifest: what it says of itself.
        state: as it was given to `Saver.save`.
    """

    manifest: Manifest
    state: dict[str, Any]


def read(archive: Archive, step: int) -> Checkpoint:
    """Verify a checkpoint and read it.

    Raises:
        IntegrityError: it is damaged.
        ConfigurationError: it has another format.
    """
    manifest = archive.verify(step)
    folder = archive.folder / str(step)
    tensors = {
        file.name.removesuffix(SUFFIX): read_tensors(folder / file.name)
        for file in manifest.files
        if file.name.endswith(SUFFIX)
    }
    try:
        rest = (folder / REST).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{folder / REST} is damaged: it cannot be read: {error.strerror}.") from error
    return Checkpoint(manifest, put_together(rest, tensors))


def newest(
    archive: Archive, *, model: Mapping[str, torch.Tensor], recipe: Recipe, allow: Sequence[Difference] = ()
) -> Checkpoint | None:
    """The newest undamaged checkpoint; damaged ones are reported and passed over.

    Args:
        archive: where it is looked for.
        model: parameters and buffers of the model that is to go on from it.
        recipe: of the training that is to go on from it.
        allow: what may differ in the recipe.

    Returns:
        The checkpoint; `None` where there is none, or none is undamaged.

    Raises:
        ModelError: it is of another model.
        ConfigurationError: it is of another training, of another arithmetic, or of another format.
    """
    for step in archive.steps():
        try:
            manifest = archive.manifest(step)
            who = f"The checkpoint {archive.folder / str(step)}"
            manifests.check_model(manifest.model, forms_of(model), who)
            manifests.check_recipe(manifest.recipe, recipe, who, allow)
            return read(archive, step)
        except IntegrityError as error:
            get_logger().warning("a checkpoint is damaged; the one before it is tried", reason=str(error))
    return None


def forms_of(model: Mapping[str, torch.Tensor]) -> tuple[Form, ...]:
    """Names, types and shapes of tensors."""
    return tuple(
        Form(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in model.items()
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file into memory of its own.

    Raises:
        IntegrityError: it is no such file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # What the library returns is the file, mapped; what is trained on must not depend on a file.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no dictionary
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} is damaged: {error}.") from error
