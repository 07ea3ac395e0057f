"""Which callbacks are called where: the replicated ones on every rank, the others on rank 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ganglion.training.callbacks import Callback, Training


class Observers:
    """The callbacks of one process.

    Args:
        callbacks: all of them, the same on every process.
        training: what they see.
    """

    def __init__(self, callbacks: Sequence[Callback], training: Training) -> None:
        self._callbacks = callbacks
        self._training = training
        self._started: set[int] = set()

    def step(self, rank: int) -> None:
        """A step was committed."""
        for callback in self._called(rank):
            callback.on_step_end(self._training)

    def epoch(self, rank: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch was committed; it counts from 1."""
        for callback in self._called(rank):
            callback.on_epoch_end(self._training, epoch, metrics)

    def start(self, rank: int) -> None:
        """The training begins, or this process becomes rank 0."""
        self._called(rank)

    def end(self, rank: int) -> None:
        """The last step was committed."""
        for callback in self._called(rank):
            callback.on_train_end(self._training)

    def get_state(self) -> dict[int, dict[str, Any]]:
        """The states of the replicated ones that have been started, by their places."""
        return {
            index: self._callbacks[index].get_state() for index in self._started if self._callbacks[index].replicated
        }

    def set_state(self, states: Mapping[int, dict[str, Any]]) -> None:
        """Become what they are on another process; those that have not been started there will be here."""
        for index, state in states.items():
            self._callbacks[index].set_state(state)
            self._started.add(index)

    def _called(self, rank: int) -> list[Callback]:
        """Those that are called on this rank, started if that has not been done."""
        called = [
            (index, callback) for index, callback in enumerate(self._callbacks) if callback.replicated or rank == 0
        ]
        for index, callback in called:
            if index not in self._started:
                self._started.add(index)
                callback.on_train_start(self._training)
        return [callback for _, callback in called]
