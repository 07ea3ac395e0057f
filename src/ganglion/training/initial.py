"""Weights that a training begins with: those of a model package or of a checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ganglion.artifacts.package import MANIFEST, read_package
from ganglion.core.errors import ConfigurationError, ModelError
from ganglion.training.checkpoints.archive import Archive
from ganglion.training.checkpoints.manifest import NAME as CHECKPOINT_MANIFEST
from ganglion.training.checkpoints.reading import MODEL, read

WEIGHTS_FILE = "weights.npz"
"""The weights in a model package, as NumPy arrays by the names of the state dictionary."""

SHOWN = 5
"""Of many differing tensors, how many a message names."""


@torch.no_grad()
def load_initial(model: torch.nn.Module, folder: Path) -> None:
    """Give a model the weights and buffers that lie in a folder.

    Args:
        model: whose state is replaced.
        folder: a model package that has its weights, or a checkpoint.

    Raises:
        ConfigurationError: the folder is neither.
        ModelError: it is of another model; the message names the differing tensors.
        IntegrityError: the checkpoint is damaged.
    """
    if (folder / MANIFEST).is_file():
        theirs = _packaged(folder)
    elif (folder / CHECKPOINT_MANIFEST).is_file() and folder.name.isdecimal():
        theirs = read(Archive(folder.parent), int(folder.name)).state[MODEL]
    else:
        raise ConfigurationError(
            f"init_from is {str(folder)!r}, which is no model package (with {MANIFEST}) and no checkpoint (with "
            f"{CHECKPOINT_MANIFEST}). Give the folder of a published version, as models/NAME/VERSION, or of one step's "
            "checkpoint."
        )
    mine = model.state_dict()
    if problem := differences(mine, theirs):
        raise ModelError(f"{folder} is of another model than {type(model).__name__}: {problem}.")
    for name, tensor in mine.items():
        tensor.copy_(theirs[name])


def differences(here: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor]) -> str:
    """What distinguishes the tensors of two models, by name; empty if names, types and shapes are the same."""
    found = [f"{name} is missing there" for name in here if name not in there]
    found += [f"{name} is unknown here" for name in there if name not in here]
    for name in here:
        if name in there and _form(here[name]) != _form(there[name]):
            found.append(f"{name} is {_form(here[name])} here and {_form(there[name])} there")
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _packaged(folder: Path) -> dict[str, torch.Tensor]:
    manifest = read_package(folder)
    if WEIGHTS_FILE not in manifest.files:
        raise ModelError(
            f"The model package {folder} has no {WEIGHTS_FILE}, so a training cannot begin with it; packages that "
            "trainings of this version publish have."
        )
    try:
        with np.load(folder / WEIGHTS_FILE) as weights:
            return {name: torch.from_numpy(weights[name]) for name in weights.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{folder / WEIGHTS_FILE} does not read: {error}.") from error
