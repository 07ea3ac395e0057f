"""The gradients of a model in one piece of memory, so that a step needs one reduction."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Gradients:
    """Cuts vectors into the gradients of parameters, and what the slices add to the running statistics behind them.

    Gradients of single slices are summed over their records, not averaged; what is divided by after the reduction is
    the true number of records of the global batch. So the result is the gradient of its mean loss however it was cut,
    also where a slice is short or empty.

    Args:
        parameters: what is trained.
        statistics: how many numbers follow the gradients.

    Attributes:
        length: numbers in a vector.
        dtype: of the vectors: that of the parameters.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], statistics: int = 0) -> None:
        self._parameters = parameters
        self._size = sum(parameter.numel() for parameter in parameters)
        self.length = self._size + statistics
        self.dtype = parameters[0].dtype

    def views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The gradient of each parameter in `vector`, laid out in memory as the parameter is."""
        views = []
        offset = vector.storage_offset()
        for parameter in self._parameters:
            views.append(vector.as_strided(parameter.shape, parameter.stride(), offset))
            offset += parameter.numel()
        return views

    def statistics(self, vector: torch.Tensor) -> torch.Tensor:
        """The part of `vector` behind the gradients."""
        return vector[self._size :]

    def show(self, views: Sequence[torch.Tensor]) -> None:
        """Make `views` the gradients that the backward pass adds to and the optimizer reads."""
        for parameter, view in zip(self._parameters, views, strict=True):
            parameter.grad = view
