"""The gradients of some logical workers, computed one after the other and summed along the tree.

Nothing that a repetition of the step would read is changed: what is written are the vectors of this process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import msgspec
import numpy as np
import torch

from ganglion.core.errors import DataError
from ganglion.training.collective import is_finite
from ganglion.training.gradients import Gradients
from ganglion.training.losses import Loss
from ganglion.training.memory import Slots
from ganglion.training.plan import TrainingPlan
from ganglion.training.slices import random_key
from ganglion.training.source import Columns, part_of, records_of, slice_bounds
from ganglion.training.statistics import RunningStatistics
from ganglion.training.tensors import Columnizer
from ganglion.training.tree import leaves, merges


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
    """Forward and backward passes on one process.

    Args:
        plan: of the training.
        model: in training mode.
        loss: mean over records.
        columnizer: picks inputs and targets.
        statistics: the buffers that the model changes.
        gradients: how vectors are cut.
        slots: the vectors of this process.
        logical: number of logical workers.
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
        slots: Slots,
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
        self._vectors: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def accumulate(self, step: int, span: range, slices: Mapping[int, Columns]) -> list[Slice]:
        """Leave the sums over the maximal subtrees of a range in the first slots.

        Args:
            step: that is being computed.
            span: the logical workers.
            slices: their records; those without any may be missing.

        Returns:
            What each logical worker has to say.

        Raises:
            DataError: the loss refuses a target, and no slice may be left out.
        """
        said = []
        height = 0
        for worker, count in zip(span, merges(leaves(span), self._logical), strict=True):
            said.append(self.compute(step, worker, slices.get(worker, {}), height))
            for _ in range(count):
                height -= 1
                self._vector(height)[0].add_(self._vector(height + 1)[0])
            height += 1
        return said

    def compute(self, step: int, worker: int, columns: Columns, slot: int) -> Slice:
        """Leave the summed gradient of one slice in a slot."""
        vector, views = self._vector(slot)
        vector.zero_()
        if records_of(columns) == 0:
            return Slice(0, 0.0)
        self._gradients.show(views)
        key = random_key(self._plan.seed, "step", step, worker)
        random.seed(key)
        np.random.seed(key % 2**32)
        torch.default_generator.manual_seed(key)
        if not self._plan.max_bad_slices:
            return self._backward(columns, vector)
        try:
            said = self._backward(columns, vector)
            problem = "" if math.isfinite(said.loss) and is_finite(vector) else "the loss is not a finite number"
        except DataError as error:
            problem = str(error)
        if problem:
            vector.zero_()
            return Slice(0, 0.0, problem)
        return said

    def _backward(self, columns: Columns, vector: torch.Tensor) -> Slice:
        """Add the gradient of a slice to its vector, part by part."""
        records, parts = records_of(columns), self._plan.micro_batches
        loss = 0.0
        for part in range(parts):
            bounds = slice_bounds(part, parts, records)
            if (size := bounds.stop - bounds.start) == 0:
                continue
            inputs, targets = self._columnizer(columns if size == records else part_of(columns, bounds))
            with self._statistics.slice(self._gradients.statistics(vector), size):
                total = self._loss(self._forward(inputs), targets) * size
            total.backward()
            loss += float(total.detach())
        return Slice(records, loss)

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
