"""The checkpoints of a training as its loop sees them: resume once, offer after every commit, close.

Whoever is the chief saves; all replicas have the same state, so it does not matter who that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ganglion.core.clock import Clock
from ganglion.core.log import get_logger
from ganglion.training.checkpoints.archive import Archive
from ganglion.training.checkpoints.manifest import Progress, Recipe
from ganglion.training.checkpoints.reading import MODEL, newest
from ganglion.training.checkpoints.saver import Saver
from ganglion.training.checkpoints.settings import Checkpointing

HIDDEN = "buffers"
"""The part of a state with the buffers that are not part of the model's state dictionary."""


class Keeper:
    """Resumes a training and saves its checkpoints.

    Args:
        settings: where, how often, which are kept.
        recipe: of the training.
        model: what is trained.
        clock: where time comes from.
    """

    def __init__(
        self, settings: Checkpointing, *, recipe: Recipe, model: torch.nn.Module, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._recipe = recipe
        self._model = model
        self._clock = clock
        self._archive = Archive(Path(settings.folder))
        self._past: tuple[float, int] | None = None
        self._saver: Saver | None = None

    def resume(self) -> dict[str, Any] | None:
        """What was offered last and is undamaged; for the one process that then gives it to all others.

        The tensors of the model come in the order in which it has its parameters and buffers.

        Raises:
            ModelError: the checkpoint is of another model.
            ConfigurationError: it is of another training.
        """
        self._archive.recover()
        found = newest(self._archive, model=self._parts()[MODEL], recipe=self._recipe, allow=self._settings.allow)
        if found is None:
            return None
        manifest = found.manifest
        self._past = manifest.seconds, manifest.losses + 1
        get_logger().info("goes on from a checkpoint", folder=str(self._archive.folder), step=manifest.progress.step)
        state = dict(found.state)
        tensors = {**state.pop(MODEL), **state.pop(HIDDEN)}
        return {**state, "tensors": [tensors[name] for name, _ in _tensors(self._model)]}

    def offer(self, state: Callable[[], Mapping[str, Any]], progress: Progress) -> None:
        """Save the state if that is due; for the chief, between two commits.

        Args:
            state: gives all that the next commit depends on; the tensors of the model, which this object knows, under
                `tensors`.
            progress: where the training stands; with metrics only if they are those of exactly this state.
        """
        saver = self._opened()
        if saver.due(progress.metrics):
            rest = {name: value for name, value in state().items() if name != "tensors"}
            saver.save({**rest, **self._parts()}, progress)

    def secure(self, state: Callable[[], Mapping[str, Any]], progress: Progress) -> None:
        """Save the state now and wait until it is on the disk; for any process, between two commits.

        All replicas have the same state, so nothing is done where somebody has saved this step.

        Args:
            state: as in `offer`.
            progress: likewise.
        """
        newest = self._archive.newest()
        if newest is not None and newest.progress.step >= progress.step:
            return
        rest = {name: value for name, value in state().items() if name != "tensors"}
        self._opened().save({**rest, **self._parts()}, progress, wait=True)

    def problem(self) -> str:
        """Why the last checkpoint of this process could not be saved, once that is known; empty when it could."""
        if self._saver is None:
            return ""
        self._saver.settled(wait=True)
        return self._saver.problem

    def close(self) -> None:
        """Wait until the last checkpoint is on the disk."""
        if self._saver is not None:
            self._saver.close()

    def _opened(self) -> Saver:
        if self._saver is None:
            past = self._past or self._last_life()
            self._saver = Saver(self._settings, recipe=self._recipe, seconds=past[0], losses=past[1], clock=self._clock)
        return self._saver

    def _parts(self) -> dict[str, dict[str, torch.Tensor]]:
        """The tensors of the model by name: those that people exchange, and the rest."""
        model = {name: tensor for name, tensor in self._model.state_dict().items() if isinstance(tensor, torch.Tensor)}
        return {MODEL: model, HIDDEN: {name: tensor for name, tensor in _tensors(self._model) if name not in model}}

    def _last_life(self) -> tuple[float, int]:
        """Of a training in which this process took over as the chief, or joined later."""
        manifest = self._archive.newest()
        return (manifest.seconds, manifest.losses) if manifest else (0.0, 0)


def _tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
