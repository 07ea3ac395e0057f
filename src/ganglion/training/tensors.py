"""Records as a model takes them: NumPy columns become tensors, without a copy where that is possible."""

from __future__ import annotations

import torch

from ganglion.core.errors import DataError, suggest
from ganglion.training.source import Columns, writable

_ALIGNMENT = 64
"""Bytes. Kernels may take another path for memory that is aligned otherwise, and where a slice begins within what its
process has read depends on the mapping."""


class Columnizer:
    """Picks the input and the target out of records.

    Args:
        input_column: what the model is called with.
        target_column: what its output is compared to.
        channels_last: lay four-dimensional inputs out with the channels innermost.
        device: where the model computes; to another one than the CPU records are copied from pinned memory, while the
            device computes what it was given before.
    """

    def __init__(
        self, *, input_column: str, target_column: str, channels_last: bool, device: torch.device | None = None
    ) -> None:
        self._names = (input_column, target_column)
        self._device = device if device is not None and device.type != "cpu" else None
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, columns: Columns) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs in their stored type, and targets as int64 where they are integers.

        Raises:
            DataError: a column is not there, or the two differ in length.
        """
        for name in self._names:
            if name not in columns:
                raise DataError(f"The records have no column {name!r}. {suggest(name, columns)}")
        inputs, targets = (_aligned(torch.from_numpy(writable(columns[name]))) for name in self._names)
        if len(inputs) != len(targets):
            raise DataError(f"{len(inputs)} records in {self._names[0]!r}, but {len(targets)} in {self._names[1]!r}.")
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=self._format)
        targets = targets if targets.is_floating_point() else targets.long()
        return (inputs, targets) if self._device is None else (self._moved(inputs), self._moved(targets))

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor
