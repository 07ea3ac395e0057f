"""Synchronous data-parallel training.

Every process computes its slices of each global batch, gradients are added up over all of them, and every replica
takes the same step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from ganglion.core.errors import DataError, ExecutionError
from ganglion.training.callbacks import Callback, Training
from ganglion.training.collective import Collective
from ganglion.training.evaluation import evaluate
from ganglion.training.gradients import GradientBuffer
from ganglion.training.losses import Loss
from ganglion.training.optimizers import build_optimizer
from ganglion.training.plan import TrainingPlan
from ganglion.training.slices import owned, random_key
from ganglion.training.source import BatchSource, Columns, records_of
from ganglion.training.statistics import RunningStatistics
from ganglion.training.tensors import Columnizer


class DivergedError(ExecutionError):
    """The loss or a gradient is not a finite number; the step was not taken."""


class Loop:
    """One training on one process.

    Args:
        plan: what to do.
        model: the same on every process.
        train: what is learned from.
        held_out: what is measured on after each epoch, if anything.
        loss: mean over records.
        columnizer: picks inputs and targets.
        collective: the processes.
        logical: number of logical workers, at least as many as processes.
        callbacks: called on rank 0 only.
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
        collective: Collective,
        logical: int,
        callbacks: Sequence[Callback],
    ) -> None:
        self.training = Training(model, epochs=plan.epochs, steps=plan.epochs * train.steps_per_epoch)
        self._plan = plan
        self._model = model
        self._train = train
        self._held_out = held_out
        self._loss = loss
        self._columnizer = columnizer
        self._collective = collective
        self._logical = logical
        self._callbacks = callbacks if collective.rank == 0 else ()
        self._mine = owned(collective.rank, collective.world, logical)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradients = GradientBuffer(trained)
        self._optimizer = build_optimizer(plan.optimizer, trained, plan.learning_rate)
        self._statistics = RunningStatistics(model, self._mine)

    def run(self) -> None:
        """Train to the last epoch, or until a callback stops it; then `training` has what came of it.

        Raises:
            DivergedError: the loss or a gradient was not finite; raised on every process.
            DataError: the source gave a label out of range, or fewer batches than it said.
            ControlError: another process is gone.
        """
        self._model.train()
        for callback in self._callbacks:
            callback.on_train_start(self.training)
        for epoch in range(self._plan.epochs):
            metrics = self._epoch(epoch)
            self.training.metrics = metrics
            for callback in self._callbacks:
                callback.on_epoch_end(self.training, epoch + 1, metrics)
            self.training.stopped = self._collective.gather(self.training.stopped)[0]
            if self.training.stopped:
                break
        for callback in self._callbacks:
            callback.on_train_end(self.training)

    def _epoch(self, epoch: int) -> dict[str, float]:
        loss, records = 0.0, 0.0
        for slices in self._batches(epoch):
            self._step(epoch, slices)
            loss, records = loss + self._gradients.loss, records + self._gradients.records
            if self._gradients.stopping:
                break
        self._statistics.merge(self._collective)
        metrics = {"train_loss": loss / records}
        if self._held_out is not None:
            metrics |= evaluate(
                self._model,
                self._held_out,
                names=self._plan.measured,
                loss=self._loss,
                columnizer=self._columnizer,
                collective=self._collective,
                logical=self._logical,
            )
        return metrics

    def _batches(self, epoch: int) -> Iterator[dict[int, Columns]]:
        """The slices of this process, by logical worker, for each step of an epoch."""
        sources = {
            worker: iter(self._train.batches(epoch, first=worker, last=worker + 1, of=self._logical))
            for worker in self._mine
        }
        for step in range(self._train.steps_per_epoch):
            slices = {worker: next(source, None) for worker, source in sources.items()}
            given = {worker: columns for worker, columns in slices.items() if columns is not None}
            if len(given) < len(slices):
                raise DataError(
                    f"The training source says that epoch {epoch + 1} has {self._train.steps_per_epoch} batches, but "
                    f"it ended after {step}."
                )
            yield given

    def _step(self, epoch: int, slices: Mapping[int, Columns]) -> None:
        training, gradients = self.training, self._gradients
        gradients.clear()
        for worker, columns in slices.items():
            if records_of(columns) > 0:
                self._add_slice(worker, columns)
        if training.stopped:
            gradients.ask_to_stop()
        self._collective.add(gradients.flat)
        gradients.finish()
        if not gradients.finite:
            raise DivergedError(
                f"The loss or a gradient is not a finite number in epoch {epoch + 1}, step {training.step + 1} of "
                f"{training.steps}; the step was not taken. Try a lower learning rate than "
                f"{self._plan.learning_rate:g}, or look for such numbers in the records."
            )
        self._set_learning_rate()
        self._optimizer.step()
        training.step += 1
        training.records += int(gradients.records)
        training.loss = gradients.loss / max(1.0, gradients.records)
        for callback in self._callbacks:
            callback.on_step_end(training)

    def _add_slice(self, worker: int, columns: Columns) -> None:
        torch.default_generator.manual_seed(random_key(self._plan.seed, "step", self.training.step, worker))
        inputs, targets = self._columnizer(columns)
        with self._statistics.of(worker):
            loss = self._loss(self._model(inputs), targets)
        self._gradients.add(loss, len(inputs))

    def _set_learning_rate(self) -> None:
        factor = self._plan.schedule.factor(self.training.step, self.training.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate * factor
