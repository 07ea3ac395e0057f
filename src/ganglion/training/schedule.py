"""The learning rate as a function of the training step."""

from __future__ import annotations

import math
from typing import Literal

from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError


class Schedule(Config, frozen=True, kw_only=True):
    """How the learning rate moves between the first and the last step.

    `one_cycle` rises from `initial` to the peak during `warm_up` of all steps and falls to `final`, both along half a
    cosine (Smith and Topin, "Super-Convergence", 2018). `cosine` begins at the peak and falls to `final` (Loshchilov
    and Hutter, "SGDR", 2017). `constant` stays at the peak.

    Attributes:
        kind: the shape.
        warm_up: part of all steps in which `one_cycle` rises, between 0 and 1.
        initial: where `one_cycle` begins, as a part of the peak.
        final: where `one_cycle` and `cosine` end, as a part of the peak.
    """

    kind: Literal["constant", "one_cycle", "cosine"] = "constant"
    warm_up: float = 0.3
    initial: float = 0.04
    final: float = 0.0001

    def __post_init__(self) -> None:
        for name, value in (("warm_up", self.warm_up), ("initial", self.initial), ("final", self.final)):
            if not 0 <= value <= 1:
                raise ConfigurationError(f"Schedule: {name} is {value}; it has to lie between 0 and 1.")

    def factor(self, step: int, steps: int) -> float:
        """What the peak learning rate is multiplied by.

        Args:
            step: from 0.
            steps: number of steps in the whole training, at least 1.

        Returns:
            A number between 0 and 1; the last step has `final`, and the peak is 1.
        """
        if self.kind == "constant":
            return 1.0
        last = max(1, steps - 1)
        rise = self.warm_up * last if self.kind == "one_cycle" else 0.0
        if step < rise:
            return _half_cosine(self.initial, 1.0, step / rise)
        return _half_cosine(1.0, self.final, (step - rise) / (last - rise)) if last > rise else 1.0


def _half_cosine(begin: float, end: float, part: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * min(1.0, part))) / 2
