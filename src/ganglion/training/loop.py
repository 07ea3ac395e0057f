"""Synchronous data-parallel training, one transaction after the other.

Every process computes its slices of each global batch, the gradients are summed along the tree, and every replica takes
the same step. Whatever a step changes (weights, the optimizer, running statistics, the position in the data, counts,
callbacks) is changed after the sum has been agreed upon; whoever is lost before that is done without, and the step is
repeated.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import torch

from ganglion.core import faults
from ganglion.core.errors import ExecutionError
from ganglion.training.callbacks import Callback, Training
from ganglion.training.evaluation import evaluate
from ganglion.training.feed import Feed
from ganglion.training.gradients import Gradients
from ganglion.training.group import Group
from ganglion.training.losses import Loss
from ganglion.training.memory import Slots
from ganglion.training.mesh import DisruptedError
from ganglion.training.observers import Observers
from ganglion.training.optimizers import build_optimizer
from ganglion.training.plan import TrainingPlan
from ganglion.training.slices import random_key
from ganglion.training.source import BatchSource, Columns
from ganglion.training.state import digest
from ganglion.training.statistics import RunningStatistics
from ganglion.training.tensors import Columnizer
from ganglion.training.tree import depth, leaves, merges


class DivergedError(ExecutionError):
    """The loss or a gradient is not a finite number; the step was not taken."""


class Phase(enum.StrEnum):
    """What the next transaction is."""

    STEP = "step"
    EVALUATE = "evaluate"
    DECIDE = "decide"
    FINISH = "finish"
    DONE = "done"


class Position(msgspec.Struct):
    """Where a training stands; part of what a transaction commits.

    Attributes:
        phase: what comes next.
        epoch: from 0.
        batch: steps taken in this epoch; with `epoch` the whole cursor of the data.
        loss: sum over the records of this epoch so far.
        records: how many they are.
    """

    phase: Phase = Phase.STEP
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    records: float = 0.0


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """What a process has to say of its slices: why the training is to stop, and records and summed loss of each."""

    stop: str
    slices: tuple[tuple[int, float], ...]


class Loop:
    """One training on one process.

    Args:
        plan: what to do.
        model: the same on every process.
        train: what is learned from.
        held_out: what is measured on after each epoch, if anything.
        loss: mean over records.
        columnizer: picks inputs and targets.
        probe: some training records, on which the model shows which buffers it changes.
        logical: number of logical workers.
        callbacks: the same on every process.

    Attributes:
        training: what callbacks see.
        slots: the vectors that a group sums; to be given to it.
        commits: as `group.Replica` has it.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        model: torch.nn.Module,
        train: BatchSource,
        held_out: BatchSource | None,
        loss: Loss,
        columnizer: Columnizer,
        probe: Columns,
        logical: int,
        callbacks: Sequence[Callback],
    ) -> None:
        self.training = Training(model, epochs=plan.epochs, steps=plan.epochs * train.steps_per_epoch)
        self.commits = -1
        self._plan = plan
        self._model = model
        self._train = train
        self._held_out = held_out
        self._loss = loss
        self._columnizer = columnizer
        self._logical = logical
        self._observers = Observers(callbacks, self.training)
        self._position = Position()
        self._feed = Feed(train, logical)
        self._model.train()
        self._statistics = RunningStatistics(model, lambda: model(columnizer(probe)[0]))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(plan.optimizer, trained, plan.learning_rate)
        self._gradients = Gradients(trained, self._statistics.length)
        self.slots = Slots(depth(leaves(range(logical)), logical) + 1, self._gradients.length, self._gradients.dtype)
        self._views: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def run(self, group: Group, publish: Callable[[str], bytes]) -> bytes:
        """Train to the last epoch, or until a callback stops it.

        Args:
            group: the processes.
            publish: makes what `run` returns of `training` and the digest of its state; called on rank 0.

        Returns:
            What `publish` returned; the same on every process.

        Raises:
            DivergedError: the loss or a gradient was not finite; raised on every process.
            DataError: the source gave a label out of range, or fewer batches than it said.
            ControlError: another process is gone and cannot be done without.
        """
        result = b""
        while self._position.phase is not Phase.DONE:
            try:
                group.settle(self)
                self._observers.start(group.rank)
                match self._position.phase:
                    case Phase.STEP:
                        self._step(group)
                    case Phase.EVALUATE:
                        self._evaluate(group)
                    case Phase.DECIDE:
                        self._decide(group)
                    case _:
                        faults.point("training.finish", step=self.training.step)
                        result = group.gather(publish(self._digest()) if group.rank == 0 else b"")[0]
                        self._position.phase = Phase.DONE
                self.commits += 1
            except DisruptedError as error:
                group.disband(error)
        self._feed.close()
        return result

    def warm_up(self, records: Columns) -> None:
        """Compute a slice for nothing, so that others need not wait for what a process does only once.

        Args:
            records: at least one; of as many as a slice has, if there are as many.
        """
        size = max(1, self._train.global_batch // self._logical)
        self._compute(0, {name: column[:size] for name, column in records.items()}, 0)
        self._statistics.restore()

    # the state, as `group.Replica` has it

    def state(self) -> dict[str, Any]:
        """Everything that the next transaction depends on."""
        self._statistics.restore()
        training = self.training
        return {
            "position": msgspec.structs.asdict(self._position),
            "training": {name: getattr(training, name) for name in _COUNTS},
            "tensors": [*self._model.parameters(), *self._model.buffers()],
            "optimizer": self._optimizer.state_dict(),
            "callbacks": self._observers.get_state(),
        }

    def restore(self, state: object) -> None:
        """Take over the state of another process."""
        assert isinstance(state, dict)
        with torch.no_grad():
            for mine, theirs in zip((*self._model.parameters(), *self._model.buffers()), state["tensors"], strict=True):
                mine.copy_(theirs)
        self._statistics.keep()
        self._optimizer.load_state_dict(state["optimizer"])
        self._position = Position(**state["position"])
        for name, value in state["training"].items():
            setattr(self.training, name, value)
        self._observers.set_state(state["callbacks"])

    def _digest(self) -> str:
        position = (self._position.epoch, self._position.batch, self.training.step, self.training.records)
        return digest((dict(self._model.state_dict()), self._optimizer.state_dict(), position))

    # transactions

    def _step(self, group: Group) -> None:
        position, training = self._position, self.training
        began = time.perf_counter()
        span = group.spans[group.rank]
        slices = self._feed.slices(position.epoch, position.batch, span)
        sums = self._accumulate(span, slices)
        faults.point("training.before_reduce", step=training.step)
        parts: list[_Part] = []

        def divisor(notes: Sequence[bytes]) -> float:
            parts.extend(msgspec.msgpack.decode(note, type=_Part) for note in notes)
            return float(max(1, sum(records for part in parts for records, _ in part.slices)))

        note = msgspec.msgpack.encode(_Part(training.stopped, tuple(sums)))
        reduced = group.reduce(note, divisor, time.perf_counter() - began)
        faults.point("training.after_reduce", step=training.step)
        records = sum(count for part in parts for count, _ in part.slices)
        loss = 0.0
        for part in parts:
            for _, value in part.slices:  # one by one, in the order of the logical workers
                loss += value
        if not reduced.finite or not np.isfinite(loss):
            raise DivergedError(
                f"The loss or a gradient is not a finite number in epoch {position.epoch + 1}, step "
                f"{training.step + 1} of {training.steps}; the step was not taken. Try a lower learning rate than "
                f"{self._plan.learning_rate:g}, or look for such numbers in the records."
            )
        self._gradients.show(self._views_of(-1, group.result))
        self._set_learning_rate()
        self._optimizer.step()
        faults.point("training.optimizer", step=training.step)
        self._statistics.commit(self._gradients.statistics(group.result))
        position.batch += 1
        position.loss += loss
        position.records += records
        training.step += 1
        training.records += records
        training.loss = loss / max(1, records)
        training.stopped = next((part.stop for part in parts if part.stop), training.stopped)
        if position.batch == self._train.steps_per_epoch or any(part.stop for part in parts):
            position.phase = Phase.EVALUATE
        self._observers.step(group.rank)
        faults.point("training.commit", step=training.step - 1)

    def _evaluate(self, group: Group) -> None:
        position = self._position
        metrics = {"train_loss": position.loss / position.records}
        if self._held_out is not None:
            metrics |= evaluate(
                self._model,
                self._held_out,
                names=self._plan.measured,
                loss=self._loss,
                columnizer=self._columnizer,
                gather=group.gather,
                span=group.spans[group.rank],
                logical=self._logical,
            )
        self.training.metrics = metrics
        self._position = Position(phase=Phase.DECIDE, epoch=position.epoch + 1)
        self._observers.epoch(group.rank, position.epoch + 1, metrics)
        faults.point("training.evaluated", step=self.training.step)

    def _decide(self, group: Group) -> None:
        """Agree whether the training goes on: callbacks of rank 0 may have stopped it."""
        reasons = [msgspec.msgpack.decode(said, type=str) for said in group.gather(_encode(self.training.stopped))]
        self.training.stopped = next(filter(None, reasons), "")
        if self.training.stopped or self._position.epoch == self._plan.epochs:
            self._position.phase = Phase.FINISH
            self._observers.end(group.rank)
        else:
            self._position.phase = Phase.STEP

    # a step

    def _accumulate(self, span: range, slices: dict[int, Columns]) -> list[tuple[int, float]]:
        """Leave the sums over the maximal subtrees of `span` in the first slots; records and loss of each slice."""
        sums = []
        height = 0
        for worker, count in zip(span, merges(leaves(span), self._logical), strict=True):
            sums.append(self._compute(worker, slices.get(worker), height))
            for _ in range(count):
                height -= 1
                vector, _views = self._views[height]
                vector.add_(self._views[height + 1][0])
            height += 1
        return sums

    def _compute(self, worker: int, columns: Columns | None, slot: int) -> tuple[int, float]:
        """Leave the summed gradient of one slice in a slot."""
        views = self._views_of(slot)
        vector, _ = self._views[slot]
        vector.zero_()
        if columns is None:
            return 0, 0.0
        self._gradients.show(views)
        key = random_key(self._plan.seed, "step", self.training.step, worker)
        random.seed(key)
        np.random.seed(key % 2**32)
        torch.default_generator.manual_seed(key)
        inputs, targets = self._columnizer(columns)
        records = len(inputs)
        with self._statistics.slice(self._gradients.statistics(vector), records):
            total = self._loss(self._model(inputs), targets) * records
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        return records, float(total.detach())

    def _views_of(self, slot: int, vector: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The gradients in a slot, or (-1) in the result, which changes with the roster."""
        known = self._views.get(slot)
        if known is None or (vector is not None and known[0] is not vector):
            vector = self.slots[slot] if vector is None else vector
            known = self._views[slot] = (vector, self._gradients.views(vector))
        return known[1]

    def _set_learning_rate(self) -> None:
        factor = self._plan.schedule.factor(self.training.step, self.training.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate * factor


_COUNTS = ("step", "records", "loss", "metrics", "stopped")
"""Attributes of `Training` that are part of the state."""

_encode = msgspec.msgpack.encode
