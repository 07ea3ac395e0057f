"""What a training is told about its checkpoints."""

from __future__ import annotations

from typing import Literal

from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError

Difference = Literal["plan", "arithmetic"]
"""What a checkpoint may be allowed to differ in from the training that goes on from it."""


class Checkpointing(Config, frozen=True, kw_only=True):
    """Where and how often checkpoints are saved, and which are kept.

    Attributes:
        folder: that they lie in; one for each training.
        keep_last: how many of the newest are kept.
        keep_best: the held-out metric whose best checkpoint is kept too; it is saved right after the evaluation.
        mode: `min` or `max`; by default `max`, but `min` for losses.
        shortest: seconds; the least between two checkpoints.
        longest: seconds; the most, whatever the cadence says.
        failures_apart: seconds between losses of all workers that are expected before any was seen.
        allow: in what a checkpoint may differ from the training that goes on from it. The result is then not the one
            that either of them would have had alone.
    """

    folder: str
    keep_last: int = 2
    keep_best: str | None = None
    mode: Literal["min", "max"] | None = None
    shortest: float = 10.0
    longest: float = 600.0
    failures_apart: float = 86_400.0
    allow: tuple[Difference, ...] = ()

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ConfigurationError(f"Checkpoints: keep_last is {self.keep_last}; it is at least 1.")
        if not 0 <= self.shortest <= self.longest:
            raise ConfigurationError(
                f"Checkpoints: shortest is {self.shortest:g} s and longest {self.longest:g} s; "
                "0 <= shortest <= longest has to hold."
            )
        if not self.failures_apart > 0:
            raise ConfigurationError(
                f"Checkpoints: failures_apart is {self.failures_apart:g} s; it has to be greater than 0."
            )

    @property
    def maximizes(self) -> bool:
        """Whether more of the metric is better."""
        return (self.mode or ("min" if (self.keep_best or "").endswith("loss") else "max")) == "max"
