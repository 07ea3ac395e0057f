"""Buffers that a model updates while it learns, such as the running means of batch normalisation.

Each logical worker sees slices of its own, so each has its own copy; they are averaged in the order of the logical
workers. As the updates are linear, averaging once an epoch equals averaging in every step. The result does not depend
on which process held which copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ganglion.training.collective import Collective


class RunningStatistics:
    """The buffers of one model, once for each logical worker of this process.

    Args:
        model: whose buffers they are; all replicas agree on them now.
        logical: the logical workers of this process.
    """

    def __init__(self, model: torch.nn.Module, logical: range) -> None:
        self._buffers = list(model.buffers())
        self._copies = {worker: [buffer.clone() for buffer in self._buffers] for worker in logical}

    @contextmanager
    def of(self, worker: int) -> Iterator[None]:
        """Let the model see and update the copy of one logical worker."""
        alone = len(self._copies) == 1
        if not alone:
            self._show(self._copies[worker])
        yield
        if not alone:
            self._keep(self._copies[worker])

    def merge(self, collective: Collective) -> None:
        """Make the mean over all logical workers what the model and every copy hold."""
        if not self._buffers:
            return
        if len(self._copies) == 1:
            self._keep(next(iter(self._copies.values())))
        mine = [[_pack(buffer) for buffer in copy] for copy in self._copies.values()]
        copies = [copy for process in collective.gather(mine) for copy in process]
        for index, buffer in enumerate(self._buffers):
            values = [np.frombuffer(copy[index], dtype=np.float64) for copy in copies]
            mean = torch.from_numpy(sum(values[1:], start=values[0]) / len(values))
            buffer.copy_(mean.reshape(buffer.shape))
        for copy in self._copies.values():
            self._keep(copy)

    def _show(self, copy: list[torch.Tensor]) -> None:
        for buffer, kept in zip(self._buffers, copy, strict=True):
            buffer.copy_(kept)

    def _keep(self, copy: list[torch.Tensor]) -> None:
        for buffer, kept in zip(self._buffers, copy, strict=True):
            kept.copy_(buffer)


def _pack(buffer: torch.Tensor) -> bytes:
    return buffer.detach().double().contiguous().numpy().tobytes()
