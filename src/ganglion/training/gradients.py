"""All gradients of a model in one piece of memory, so that a step needs one all-reduce."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

_RECORDS, _LOSS, _STOP = 0, 1, 2
_EXTRA = 3


class GradientBuffer:
    """Sums of gradients over records, with the number of records and their loss beside them.

    The gradients of single slices are *added*, not averaged; what is divided by after the reduction is the true number
    of records of the global batch. So the result is the gradient of its mean loss however it was cut, also where a
    slice is short or empty. `flat` is what is reduced.

    Args:
        parameters: what is trained; their `grad` becomes a view of the buffer, laid out as they are.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        size = sum(parameter.numel() for parameter in parameters)
        kinds = {parameter.dtype for parameter in parameters}
        dtype = kinds.pop() if len(kinds) == 1 else torch.float32
        self.flat = torch.zeros(size + _EXTRA, dtype=dtype)
        self._gradients, self._extra = self.flat[:size], self.flat[size:]
        offset = 0
        for parameter in parameters:
            part = self._gradients[offset : offset + parameter.numel()]
            parameter.grad = part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            offset += parameter.numel()

    def clear(self) -> None:
        """Begin a step."""
        self.flat.zero_()

    def add(self, loss: torch.Tensor, records: int) -> None:
        """Add one slice.

        Args:
            loss: mean over its records, with its graph.
            records: how many, at least one.
        """
        total = loss * records
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self._extra[_RECORDS] += records
        self._extra[_LOSS] += total.detach()

    def ask_to_stop(self) -> None:
        """Make `stopping` true on every process once this step is reduced."""
        self._extra[_STOP] += 1

    def finish(self) -> None:
        """Turn the sums into means over the global batch; call it once, after the reduction."""
        self._gradients.div_(max(1.0, self.records))

    @property
    def records(self) -> float:
        """Records added, on all processes once reduced."""
        return float(self._extra[_RECORDS])

    @property
    def loss(self) -> float:
        """Sum of the loss over the records."""
        return float(self._extra[_LOSS])

    @property
    def stopping(self) -> bool:
        """Whether any process has asked to stop."""
        return bool(self._extra[_STOP] > 0)

    @property
    def finite(self) -> bool:
        """Whether the loss and every gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(float(self._gradients.sum()))
