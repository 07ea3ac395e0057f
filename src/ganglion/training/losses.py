"""What a training makes small: means over records, by name or by import path."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional

from ganglion.core.errors import ConfigurationError, DataError, ModelError, suggest
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


def binary_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy between logits [records, labels] and which labels are true (0 or 1, or between), [same].

    Raises:
        DataError: a target is not between 0 and 1.
    """
    wanted = _like(outputs, targets)
    lowest, highest = torch.aminmax(wanted)
    if not (lowest >= 0 and highest <= 1):
        wrong = float(lowest if not lowest >= 0 else highest)
        raise DataError(f"A record has the target {wrong:g}; binary_cross_entropy needs 0 or 1 for each label.")
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, wanted)


def mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared difference; targets [records] are compared to outputs [records, 1] or [records]."""
    return torch.nn.functional.mse_loss(outputs, _like(outputs, targets))


def mean_absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference; shapes as for `mean_squared_error`."""
    return torch.nn.functional.l1_loss(outputs, _like(outputs, targets))


def huber(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of half the squared difference up to 1, and linear beyond (Huber, 1964); shapes as before."""
    return torch.nn.functional.huber_loss(outputs, _like(outputs, targets))


LOSSES: dict[str, Loss] = {
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy": cross_entropy,
    "huber": huber,
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
}


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


def _like(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The targets in shape and type of the outputs."""
    if targets.numel() != outputs.numel():
        raise ModelError(
            f"The model returned {list(outputs.shape)} for targets {list(targets.shape)}; as many numbers are needed."
        )
    return targets.reshape(outputs.shape).to(outputs.dtype)
