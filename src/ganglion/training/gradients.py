"""The gradients of a model in one piece of memory, so that a step needs one reduction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

_BLOCK = 65536
"""Numbers whose squares are summed at a time."""


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
        self._short: torch.Tensor | None = None
        self._begins = [0]
        for parameter in parameters:
            self._begins.append(self._begins[-1] + parameter.numel())

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

    @contextmanager
    def watched(self, complete: Callable[[int], None]) -> Iterator[Watch]:
        """Tell how much of the vector is complete while a backward pass runs: from the end, as it reaches the layers.

        Args:
            complete: told of falling numbers; in the order of the vector nothing is complete before what follows it.

        Yields:
            What knows whether that was true.
        """
        watch = Watch(self._begins, complete)
        handles = []
        for index, parameter in enumerate(self._parameters):
            hook = partial(watch.accumulated, index)
            handle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch's stubs
            handles.append(handle)
        try:
            yield watch
        finally:
            for handle in handles:
                handle.remove()

    def clipped(self, vector: torch.Tensor, most: float) -> torch.Tensor:
        """Gradients whose Euclidean norm over all parameters is no longer than `most`.

        The norm is computed in one order from the same numbers on every process, so all come to the same. The vector
        may belong to all of them and is not changed.

        Args:
            vector: the reduced gradients, [length].
            most: the largest norm.

        Returns:
            The vector itself, or one with all gradients multiplied by the same factor, valid until the next call.
        """
        gradients = vector[: self._size]
        norms = [
            float(torch.linalg.vector_norm(block, dtype=torch.float64)) for block in torch.split(gradients, _BLOCK)
        ]
        norm = math.hypot(*norms)
        if norm <= most:
            return vector
        if self._short is None:
            self._short = torch.empty_like(vector)
        torch.mul(gradients, most / norm, out=self._short[: self._size])
        return self._short


class Watch:
    """Follows one backward pass.

    Args:
        begins: where the gradient of each parameter begins in the vector, and where the last one ends.
        complete: told from where on all gradients have been accumulated.

    Attributes:
        repeated: whether a gradient was added to once more, as where a layer that is computed again in the backward
            pass, by a backward pass of its own, is used twice.
    """

    def __init__(self, begins: Sequence[int], complete: Callable[[int], None]) -> None:
        self.repeated = False
        self._begins = begins
        self._complete = complete
        self._done = [False] * (len(begins) - 1)
        self._first = len(self._done)

    def accumulated(self, index: int, _parameter: torch.Tensor) -> None:
        """The gradient of a parameter has been added to."""
        self.repeated = self.repeated or self._done[index]
        self._done[index] = True
        first = self._first
        while self._first and self._done[self._first - 1]:
            self._first -= 1
        if self._first < first:
            self._complete(self._begins[self._first])
