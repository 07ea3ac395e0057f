"""The learning rate as a function of the training step."""

from __future__ import annotations

import math
from typing import Literal

from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError


class Schedule(Config, frozen=True, kw_only=True):
    """How the learning rate moves between the first and the last step.

    `constant` stays at the peak. `one_cycle` rises from `initial` to the peak during `warm_up` of the training and
    falls to `final`, both along half a cosine (Smith and Topin, "Super-Convergence", 2018). `cosine` begins at the peak
    and falls to `final` (Loshchilov and Hutter, "SGDR", 2017), `linear` does so along a straight line. `exponential` is
    multiplied by `decay` in every epoch, `stairs` at the end of each of the epochs in `milestones`.

    Attributes:
        kind: the shape.
        by: `step` moves it with every step, `epoch` only between epochs.
        warm_up: part of the training in which `one_cycle` rises, between 0 and 1.
        initial: where `one_cycle` begins, as a part of the peak.
        final: where `one_cycle`, `cosine` and `linear` end, as a part of the peak.
        decay: what `exponential` and `stairs` multiply by, between 0 and 1.
        milestones: epochs after which `stairs` go down, counted from 1.
    """

    kind: Literal["constant", "one_cycle", "cosine", "linear", "exponential", "stairs"] = "constant"
    by: Literal["step", "epoch"] = "step"
    warm_up: float = 0.3
    initial: float = 0.04
    final: float = 0.0001
    decay: float = 0.1
    milestones: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("warm_up", "initial", "final", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"Schedule: {name} is {getattr(self, name)}; it has to lie between 0 and 1.")
        if (self.kind == "stairs") != bool(self.milestones):
            raise ConfigurationError(
                f"Schedule: kind is {self.kind!r} and milestones are {list(self.milestones)}; stairs have milestones, "
                "and nothing else has."
            )

    def factor(self, step: int, steps: int, steps_per_epoch: int = 1) -> float:
        """What the peak learning rate is multiplied by.

        Args:
            step: from 0.
            steps: number of steps in the whole training, at least 1.
            steps_per_epoch: number of steps in an epoch, at least 1.

        Returns:
            A number between 0 and 1; the last step, or epoch, has `final`, and the peak is 1.
        """
        if self.by == "epoch":
            step, steps, steps_per_epoch = step // steps_per_epoch, -(-steps // steps_per_epoch), 1
        if self.kind == "constant":
            return 1.0
        if self.kind == "exponential":
            return math.pow(self.decay, step / steps_per_epoch)
        if self.kind == "stairs":
            return math.pow(self.decay, sum(step >= epoch * steps_per_epoch for epoch in self.milestones))
        last = max(1, steps - 1)
        if self.kind == "linear":
            return 1.0 + (self.final - 1.0) * min(1.0, step / last)
        rise = self.warm_up * last if self.kind == "one_cycle" else 0.0
        if step < rise:
            return _half_cosine(self.initial, 1.0, step / rise)
        return _half_cosine(1.0, self.final, (step - rise) / (last - rise)) if last > rise else 1.0


def _half_cosine(begin: float, end: float, part: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * min(1.0, part))) / 2
