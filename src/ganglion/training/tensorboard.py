"""Curves of a training for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganglion.core.errors import ConfigurationError
from ganglion.training.callbacks import Callback, Training


class TensorBoard(Callback):
    """Writes losses, metrics, learning rate and where the time goes for TensorBoard; needs the package `tensorboard`.

    Args:
        folder: of this training; a training that goes on on another process adds a file to it.
        every: steps between two points of the loss and the learning rate.

    Raises:
        ConfigurationError: the package is not installed, or `every` is less than 1.
    """

    def __init__(self, *, folder: str, every: int = 10) -> None:
        if every < 1:
            raise ConfigurationError(f"TensorBoard: every is {every}; it is at least 1 step.")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigurationError(
                f"The callback TensorBoard needs the package 'tensorboard' ({error}). Install it on every machine that "
                "trains: pip install tensorboard."
            ) from error
        self._make = SummaryWriter
        self._folder = folder
        self._every = every
        self._writer: Any = None

    def on_train_start(self, training: Training) -> None:
        """Open a file; what an earlier process wrote of steps that come again is hidden."""
        self._writer = self._make(self._folder, purge_step=training.step)

    def on_step_end(self, training: Training) -> None:
        """Write the loss of the step now and then."""
        if training.step % self._every == 0:
            self._writer.add_scalar("step/loss", training.loss, training.step)
            self._writer.add_scalar("step/learning_rate", training.learning_rate, training.step)
            for name, share in training.diagnose().shares.items():
                self._writer.add_scalar(f"bound/{name}", share, training.step)

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write all metrics."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"epoch/{name}", value, training.step)
        self._writer.flush()

    def on_train_end(self, training: Training) -> None:
        """Close the file."""
        self._writer.close()
