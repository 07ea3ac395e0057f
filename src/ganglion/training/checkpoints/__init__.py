"""Checkpoints: what a training goes on from when all of its processes are lost.

While one process is left, the state of a training is in its memory; a checkpoint is for the day when none is. It is a
folder `<step>/` with the tensors of each part of the state in a safetensors file of its own, what else there is to know
in `state.msgpack`, and `manifest.json`, which says what all of that is and has the checksums. A folder under that name
is complete; it is verified before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.training.checkpoints.archive import Archive
    from ganglion.training.checkpoints.keeper import Keeper
    from ganglion.training.checkpoints.manifest import Manifest, Progress, Recipe
    from ganglion.training.checkpoints.reading import Checkpoint, read
    from ganglion.training.checkpoints.saver import Saver
    from ganglion.training.checkpoints.settings import Checkpointing

__all__ = ["Archive", "Checkpoint", "Checkpointing", "Keeper", "Manifest", "Progress", "Recipe", "Saver", "read"]

_MODULES = {
    "Archive": "archive",
    "Checkpoint": "reading",
    "Checkpointing": "settings",
    "Keeper": "keeper",
    "Manifest": "manifest",
    "Progress": "manifest",
    "Recipe": "manifest",
    "Saver": "saver",
    "read": "reading",
}

__getattr__ = lazy_names(__name__, _MODULES)
