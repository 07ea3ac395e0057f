"""Buffers that a model changes while it learns, such as the running means of batch normalisation.

Every slice begins a step with the same buffers. What its forward pass adds to them is summed along the tree together
with the gradients, weighted by its records, and the mean over the global batch is what the step adds. So the buffers
are part of what a step commits, and of nothing before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class RunningStatistics:
    """The buffers that a model changes in training mode.

    Args:
        model: in training mode.
        forward: runs the model once on some records, to see which buffers it changes; it is left as it was.

    Attributes:
        length: how many numbers they hold.
    """

    def __init__(self, model: torch.nn.Module, forward: Callable[[], object]) -> None:
        buffers = list(model.buffers())
        before = [buffer.clone() for buffer in buffers]
        if buffers:
            with torch.random.fork_rng(devices=()), torch.no_grad():
                forward()
        pairs = [(now, was) for now, was in zip(buffers, before, strict=True) if not torch.equal(now, was)]
        self._buffers = [now for now, _ in pairs]
        self._committed = [was for _, was in pairs]
        self.length = sum(buffer.numel() for buffer in self._buffers)
        self.restore()

    def restore(self) -> None:
        """Make the buffers what they were at the last commit."""
        for buffer, committed in zip(self._buffers, self._committed, strict=True):
            buffer.copy_(committed)

    def keep(self) -> None:
        """Take the buffers as they are for committed, after the model was given another state."""
        for buffer, committed in zip(self._buffers, self._committed, strict=True):
            committed.copy_(buffer)

    @contextmanager
    def slice(self, added: torch.Tensor, records: int) -> Iterator[None]:
        """Let the model see the committed buffers, and add what it changes, times `records`, to `added`."""
        if not self._buffers:
            yield
            return
        self.restore()
        yield
        for part, buffer, committed in zip(self._parts(added), self._buffers, self._committed, strict=True):
            part.add_((buffer - committed).reshape(-1), alpha=records)  # the backward pass may need the buffer

    def commit(self, added: torch.Tensor) -> None:
        """Add the mean over the global batch."""
        for part, buffer, committed in zip(self._parts(added), self._buffers, self._committed, strict=True):
            change = part.reshape(buffer.shape)
            committed.add_(change if committed.is_floating_point() else change.round().to(committed.dtype))
            buffer.copy_(committed)

    def _parts(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(vector, [buffer.numel() for buffer in self._buffers]) if self._buffers else ()
