"""What a training makes small: means over records, by name or by import path."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional

from ganglion.core.errors import ConfigurationError, DataError, suggest
from ganglion.execution.entry import Entry

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> the mean over the records, a tensor without dimensions."""


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy between logits [records, classes] and labels [records].

    Raises:
        DataError: a label is not one of the classes.
    """
    lowest, highest = torch.aminmax(targets)
    if lowest < 0 or highest >= outputs.shape[1]:
        wrong = int(lowest if lowest < 0 else highest)
        raise DataError(
            f"A record has the label {wrong}, but the model has {outputs.shape[1]} outputs; "
            f"labels are 0 to {outputs.shape[1] - 1}."
        )
    return torch.nn.functional.cross_entropy(outputs, targets)


def mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared difference; targets [records] are compared to outputs [records, 1] or [records]."""
    return torch.nn.functional.mse_loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mean_squared_error": mean_squared_error}


def load_loss(loss: str | Entry) -> Loss:
    """Find a loss by its name, or load the user's own.

    Raises:
        ConfigurationError: there is no loss of that name.
    """
    if isinstance(loss, Entry):
        return loss.load()
    if loss in LOSSES:
        return LOSSES[loss]
    if ":" in loss:
        return Entry(path=loss).load()
    raise ConfigurationError(f"There is no loss {loss!r}. {suggest(loss, LOSSES)} Or give the path module:function.")
