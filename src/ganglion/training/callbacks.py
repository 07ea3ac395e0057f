"""What happens beside the training: stopping early, keeping the best model, history, reports.

A callback changes the course of a training only by `Training.stop`, which makes all processes stop after the same
step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ganglion.core.clock import Clock, SystemClock
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.training.diagnosis import Verdict
from ganglion.training.plan import lower_is_better


class Training:
    """A training under way, as callbacks see it.

    Attributes:
        model: the model as it is; the same on all ranks.
        steps: planned number of steps.
        steps_per_epoch: number of steps in an epoch.
        epochs: planned number of epochs; the last may be cut short.
        step: steps done.
        records: records learned from so far.
        loss: mean over the records of the last step.
        learning_rate: of the last step.
        scale: what the scheduled learning rate is multiplied by; a replicated callback may change it.
        bad_slices: slices that were left out.
        metrics: of the last epoch.
        stopped: why the training ends early; empty while it does not.
        diagnose: tells what the training is bound by now.
    """

    def __init__(self, model: torch.nn.Module, *, steps: int, steps_per_epoch: int) -> None:
        self.model = model
        self.steps = steps
        self.steps_per_epoch = steps_per_epoch
        self.epochs = -(-steps // steps_per_epoch)
        self.step = 0
        self.records = 0
        self.loss = math.nan
        self.learning_rate = math.nan
        self.scale = 1.0
        self.bad_slices = 0
        self.metrics: dict[str, float] = {}
        self.stopped = ""
        self.diagnose: Callable[[], Verdict] = Verdict

    def stop(self, reason: str) -> None:
        """End the training on all ranks: after the epoch when called at its end, else after the next step."""
        self.stopped = reason


class Callback:
    """Base of callbacks; each hook does nothing until it is overridden.

    Attributes:
        replicated: whether it is called on every rank, and a worker that joins gets its state from another. That is for
            callbacks whose state decides about the training: they must not act on anything outside of it. Others are
            called on rank 0 only; when that is lost, the next rank 0 begins with a callback of its own.
    """

    replicated = False

    def on_train_start(self, training: Training) -> None:
        """Before the first step; initial weights are set."""

    def on_step_end(self, training: Training) -> None:
        """After each step, with `training.loss`."""

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """After each epoch (from 1), with its training loss and held-out metrics."""

    def on_train_end(self, training: Training) -> None:
        """After the last step; what it leaves in `training.model` and `training.metrics` is the result."""

    def get_state(self) -> dict[str, Any]:
        """What a replica of it has to know: by default all of its attributes."""
        return dict(vars(self))

    def set_state(self, state: dict[str, Any]) -> None:
        """Become a replica."""
        vars(self).update(state)


class _Watcher(Callback):
    """Compares one metric from epoch to epoch.

    Args:
        metric: name of the metric.
        mode: `min` or `max`; by default `max`, but `min` for losses and errors.
    """

    replicated = True

    def __init__(self, *, metric: str, mode: str | None = None) -> None:
        self.metric = metric
        self.mode = mode or ("min" if lower_is_better(metric) else "max")
        if self.mode not in ("min", "max"):
            raise ConfigurationError(f"The mode of {type(self).__name__} is {mode!r}; it is min or max.")
        self.best = math.inf if self.mode == "min" else -math.inf

    def improved(self, metrics: Mapping[str, float], least: float = 0.0) -> bool:
        """Whether the metric is better than the best so far by more than `least`; if so it is the best now."""
        if self.metric not in metrics:
            raise ConfigurationError(
                f"{type(self).__name__} watches {self.metric!r}, which is not measured. {suggest(self.metric, metrics)}"
            )
        value = metrics[self.metric]
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > least:
            self.best = value
            return True
        return False


class EarlyStopping(_Watcher):
    """Ends the training when a metric has not become better for some epochs.

    Args:
        metric: name of a held-out metric, or `train_loss`.
        patience: epochs without improvement after which it ends.
        least: what counts as improvement.
        mode: `min` or `max`; by default `max`, but `min` for losses and errors.
    """

    def __init__(self, *, metric: str = "loss", patience: int = 1, least: float = 0.0, mode: str | None = None) -> None:
        super().__init__(metric=metric, mode=mode)
        if patience < 1:
            raise ConfigurationError(f"The patience of EarlyStopping is {patience}; it is at least 1 epoch.")
        self._patience = patience
        self._least = least
        self._without = 0

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """Count epochs without improvement."""
        self._without = 0 if self.improved(metrics, self._least) else self._without + 1
        if self._without >= self._patience:
            training.stop(f"{self.metric} has not improved on {self.best:.6g} since epoch {epoch - self._without}")


class KeepBest(_Watcher):
    """Ends the training with the model of the best epoch instead of the last one.

    Args:
        metric: name of a held-out metric, or `train_loss`.
        mode: `min` or `max`; by default `max`, but `min` for losses and errors.
    """

    def __init__(self, *, metric: str = "accuracy", mode: str | None = None) -> None:
        super().__init__(metric=metric, mode=mode)
        self._weights: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """Copy the model if it is the best so far."""
        if self.improved(metrics):
            self._weights = copy.deepcopy(training.model.state_dict())
            self._metrics = dict(metrics)

    def on_train_end(self, training: Training) -> None:
        """Put the best model back."""
        if self._weights:
            training.model.load_state_dict(self._weights)
            training.metrics = self._metrics


class ReduceOnPlateau(_Watcher):
    """Lowers the learning rate when a metric has not become better for some epochs.

    Args:
        metric: name of a held-out metric, or `train_loss`.
        patience: epochs without improvement after which it is lowered.
        factor: what it is multiplied by, between 0 and 1.
        least: what counts as improvement.
        mode: `min` or `max`; by default `max`, but `min` for losses and errors.
    """

    def __init__(
        self,
        *,
        metric: str = "loss",
        patience: int = 1,
        factor: float = 0.1,
        least: float = 0.0,
        mode: str | None = None,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        if patience < 1 or not 0 < factor < 1:
            raise ConfigurationError(
                f"ReduceOnPlateau: patience is {patience} and factor {factor}; at least 1 epoch, and between 0 and 1."
            )
        self._patience = patience
        self._factor = factor
        self._least = least
        self._without = 0

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """Count epochs without improvement."""
        self._without = 0 if self.improved(metrics, self._least) else self._without + 1
        if self._without >= self._patience:
            training.scale *= self._factor
            self._without = 0


class Deadline(Callback):
    """Ends the training after some time; the time of earlier processes of it counts.

    Args:
        seconds: of training.
        clock: where time comes from.
    """

    replicated = True

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        self._seconds = seconds
        self._clock = clock or SystemClock()
        self._begin = self._clock.monotonic()

    def on_train_start(self, training: Training) -> None:
        """Start the watch."""
        self._begin = self._clock.monotonic()

    def on_step_end(self, training: Training) -> None:
        """Look at the watch."""
        if self._clock.monotonic() - self._begin >= self._seconds:
            training.stop(f"max_time of {self._seconds:g} s is over")

    def get_state(self) -> dict[str, Any]:
        """How long it has run; clocks of machines differ."""
        return {"elapsed": self._clock.monotonic() - self._begin}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with somebody else's watch."""
        self._begin = self._clock.monotonic() - state["elapsed"]


class History(Callback):
    """Keeps the metrics of every epoch.

    Attributes:
        epochs: `epoch` (from 1), metrics and `images_per_second` of each.
    """

    replicated = True

    def __init__(self, clock: Clock | None = None) -> None:
        self.epochs: list[dict[str, float]] = []
        self._clock = clock or SystemClock()
        self._begin, self._end, self._records = 0.0, 0.0, 0

    def on_train_start(self, training: Training) -> None:
        """Start the watch."""
        self._begin = self._end = self._clock.monotonic()

    def on_step_end(self, training: Training) -> None:
        """Remember when the last step ended, so that evaluation does not count."""
        self._end = self._clock.monotonic()

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add a line."""
        seconds = max(self._end - self._begin, 1e-9)
        speed = (training.records - self._records) / seconds
        self.epochs.append({"epoch": epoch, **metrics, "images_per_second": round(speed, 1)})
        self._begin, self._records = self._clock.monotonic(), training.records

    def get_state(self) -> dict[str, Any]:
        """The lines so far, and how long the present epoch has taken; clocks of machines differ."""
        return {"epochs": self.epochs, "records": self._records, "elapsed": self._end - self._begin}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with somebody else's watch."""
        self.epochs, self._records = state["epochs"], state["records"]
        self._end = self._clock.monotonic()
        self._begin = self._end - state["elapsed"]


class Reporter(Callback):
    """Tells the controller how far the training is: every epoch with its metrics, and in between now and then.

    Args:
        report: takes plain data and returns at once.
        history: what to take the line of an epoch from; it comes before this one.
        interval: least seconds between reports within an epoch.
        clock: where time comes from.
    """

    def __init__(
        self,
        report: Callable[[Mapping[str, Any]], None],
        history: History,
        *,
        interval: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._report = report
        self._history = history
        self._interval = interval
        self._clock = clock or SystemClock()
        self._last = (-math.inf, 0)

    def on_step_end(self, training: Training) -> None:
        """Report progress, unless that was done a moment ago."""
        now = self._clock.monotonic()
        last, records = self._last
        if now - last >= self._interval:
            self._last = (now, training.records)
            speed = {"images_per_second": round((training.records - records) / (now - last), 1)} if records else {}
            self._report({**_position(training), "step_loss": training.loss, **speed, **_bound(training.diagnose())})

    def on_epoch_end(self, training: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        """Report the epoch."""
        self._report({**_position(training), **self._history.epochs[-1], "epochs": training.epochs})


def _bound(verdict: Verdict) -> dict[str, Any]:
    """What a training is bound by, in two words, and each share of its time."""
    if not verdict.shares:
        return {}
    return {"bound": verdict.summary, **{f"{name}_share": share for name, share in verdict.shares.items()}}


def _position(training: Training) -> dict[str, float]:
    return {"progress": round(training.step / training.steps, 4), "step": training.step, "steps": training.steps}
