"""The gradients of some logical workers, computed one after the other and summed along the tree.

Nothing that a repetition of the step would read is changed: what is written are the vectors of this process. While the
last slice is computed, the end of the vectors can be handed over already.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise

import msgspec
import numpy as np
import torch

from ganglion.core.errors import DataError
from ganglion.training.allocation import keep_memory
from ganglion.training.collective import Complete, is_finite
from ganglion.training.gradients import Gradients
from ganglion.training.losses import Loss
from ganglion.training.memory import Vectors
from ganglion.training.mesh import DisruptedError
from ganglion.training.plan import TrainingPlan
from ganglion.training.slices import random_key
from ganglion.training.source import Columns, part_of, records_of, slice_bounds
from ganglion.training.statistics import RunningStatistics
from ganglion.training.tensors import Columnizer
from ganglion.training.tree import leaves, merges

_PIECE = 65536
"""Numbers of the last slice that are merged and handed over at a time, at least."""


class Slice(msgspec.Struct, frozen=True, array_like=True):
    """What one logical worker has to say of its slice.

    Attributes:
        records: that were learned from.
        loss: their sum.
        problem: why the slice was left out; empty if it was not.
    """

    records: int
    loss: float
    problem: str = ""


class Computation:
    """Forward and backward passes on one process; where they run on its CPU, it keeps the memory that they free.

    Args:
        plan: of the training.
        model: in training mode.
        loss: mean over records.
        columnizer: picks inputs and targets.
        statistics: the buffers that the model changes.
        gradients: how vectors are cut.
        slots: the vectors of this process.
        logical: number of logical workers.

    Attributes:
        may_overlap: whether something can be known to be complete before everything is.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        model: torch.nn.Module,
        loss: Loss,
        columnizer: Columnizer,
        statistics: RunningStatistics,
        gradients: Gradients,
        slots: Vectors,
        logical: int,
    ) -> None:
        self._plan = plan
        self._model = model
        self._loss = loss
        self._columnizer = columnizer
        self._statistics = statistics
        self._gradients = gradients
        self._slots = slots
        self._logical = logical
        self._device = next(model.parameters()).device.type
        if self._device == "cpu":
            keep_memory()
        self._vectors: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
        # A slice that may be left out is only known to be in when all of it has been computed.
        self.may_overlap = not plan.max_bad_slices

    def accumulate(
        self, step: int, span: range, slices: Mapping[int, Columns], complete: Complete | None = None
    ) -> list[Slice]:
        """Leave the sums over the maximal subtrees of a range in the first slots.

        Args:
            step: that is being computed.
            span: the logical workers.
            slices: their records; those without any may be missing.
            complete: told how much of these sums is there while the last slice is being computed; only for where it
                `may_overlap`.

        Returns:
            What each logical worker has to say.

        Raises:
            DataError: the loss refuses a target, and no slice may be left out.
            DisruptedError: a gradient changed after `complete` was told that it would not; the step has to be repeated,
                which takes it into account.
        """
        said = []
        height = 0
        for worker, count in zip(span, merges(leaves(span), self._logical), strict=True):
            merging = _Merging([self._vector(slot)[0] for slot in range(height, height - count - 1, -1)], complete)
            progress = merging.progress if complete is not None and worker == span[-1] else None
            said.append(self.compute(step, worker, slices.get(worker, {}), height, progress))
            merging.rest()
            height += 1 - count
        return said

    def compute(
        self, step: int, worker: int, columns: Columns, slot: int, progress: Callable[[int], None] | None = None
    ) -> Slice:
        """Leave the summed gradient of one slice in a slot.

        Args:
            step: that is being computed.
            worker: whose slice it is.
            columns: its records.
            slot: where it goes.
            progress: told from which number on it is complete.
        """
        vector, views = self._vector(slot)
        vector.zero_()
        if records_of(columns) == 0:
            return Slice(0, 0.0)
        self._gradients.show(views)
        key = random_key(self._plan.seed, "step", step, worker)
        random.seed(key)
        np.random.seed(key % 2**32)
        torch.default_generator.manual_seed(key)
        if self._device != "cpu":
            torch.get_device_module(self._device).manual_seed(key)
        if not self._plan.max_bad_slices:
            return self._backward(columns, vector, progress)
        try:
            said = self._backward(columns, vector, None)
            problem = "" if math.isfinite(said.loss) and is_finite(vector) else "the loss is not a finite number"
        except DataError as error:
            problem = str(error)
        if problem:
            vector.zero_()
            return Slice(0, 0.0, problem)
        return said

    def warm_up(self, columns: Columns) -> None:
        """Compute a slice for nothing, and see whether gradients are complete once they are accumulated."""
        with suppress(DisruptedError):  # which is remembered
            self.compute(0, 0, columns, 0, lambda _begin: None)
        self._statistics.restore()

    def _backward(self, columns: Columns, vector: torch.Tensor, progress: Callable[[int], None] | None) -> Slice:
        """Add the gradient of a slice to its vector, part by part."""
        records, parts = records_of(columns), self._plan.micro_batches
        every = [slice_bounds(part, parts, records) for part in range(parts)]
        full = [bounds for bounds in every if bounds.stop > bounds.start]
        loss = 0.0
        for bounds in full:
            size = bounds.stop - bounds.start
            inputs, targets = self._columnizer(columns if size == records else part_of(columns, bounds))
            with self._statistics.slice(self._gradients.statistics(vector), size):
                total = self._loss(self._forward(inputs), targets) * size
            if progress is not None and bounds is full[-1]:
                self._watched_backward(total, progress)
            else:
                total.backward()
            loss += float(total.detach())
        return Slice(records, loss)

    def _watched_backward(self, total: torch.Tensor, progress: Callable[[int], None]) -> None:
        with self._gradients.watched(progress) as watch:
            total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        if watch.repeated:
            self.may_overlap = False
            raise DisruptedError("A gradient was added to twice in one backward pass.")

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._plan.precision == "float32":
            plain: torch.Tensor = self._model(inputs)
            return plain
        with torch.autocast(self._device, dtype=torch.bfloat16):
            outputs: torch.Tensor = self._model(inputs)
        return outputs.to(self._gradients.dtype)

    def _vector(self, slot: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The vector of a slot, and the gradients in it."""
        if slot not in self._vectors:
            vector = self._slots[slot]
            self._vectors[slot] = (vector, self._gradients.views(vector))
        return self._vectors[slot]


class _Merging:
    """The merges of a slice with what lies left of it in the tree, range by range from the end.

    Args:
        vectors: that of the slice, and those that the sums are left in, one after the other.
        complete: told of what has been merged.
    """

    def __init__(self, vectors: list[torch.Tensor], complete: Complete | None) -> None:
        self._vectors = vectors
        self._complete = complete
        self._merged = len(vectors[0])

    def progress(self, begin: int) -> None:
        """The slice is complete from here on."""
        if self._merged - begin >= _PIECE and self._complete is not None:
            self._merge(begin)
            self._complete(begin)

    def rest(self) -> None:
        """The slice is complete."""
        self._merge(0)

    def _merge(self, begin: int) -> None:
        block = slice(begin, self._merged)
        for right, left in pairwise(self._vectors):
            left[block].add_(right[block])
        self._merged = begin
