"""A version that is given a part of the requests: what is observed of it, and whether it goes on; pure.

The canary is compared with the version that it is to replace over the same time, so that what befalls both (a surge, a
machine that is busy) is not held against it. What was observed starts afresh with every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from ganglion.core.config import Config
from ganglion.core.errors import OptionError, UserError
from ganglion.serving.traffic import percentile

STEPS = (25.0, 50.0, 100.0)
"""Percentages that follow the first where a canary is to go on by itself and nothing else is said."""


class Canary(Config, frozen=True, kw_only=True):
    """How a version is tried before it takes over.

    Attributes:
        percent: of the requests that it is given at first; above 0, below 100.
        steps: percentages that follow, each once nothing speaks against it; at 100 it takes over. Without steps it
            stays where it is until somebody promotes it.
        minimum_requests: answers of each of the two versions before a step is judged to be good or too slow.
        step_seconds: that a step takes at least.
        error_margin: by how much its share of 5xx answers may be above that of the other version; 0.02 is two of 100.
        latency_percentile: of the times of answers, which is compared.
        latency_factor: how many times that of the other version it may be.
        latency_slack: seconds that are allowed beside; a factor of very little means nothing.
        most_deaths: replicas of it that may end by themselves.

    Raises:
        UserError: a value is out of bounds, or the steps do not rise.
    """

    percent: float = 10.0
    steps: tuple[float, ...] = ()
    minimum_requests: int = 100
    step_seconds: float = 10.0
    error_margin: float = 0.02
    latency_percentile: float = 95.0
    latency_factor: float = 2.0
    latency_slack: float = 0.01
    most_deaths: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.percent < 100:
            raise OptionError(f"percent is {self.percent:g}; it has to be more than 0 and less than 100.", "percent")
        rising = (self.percent, *self.steps)
        if any(not before < after <= 100 for before, after in zip(rising, self.steps, strict=False)):
            shown = ", ".join(f"{step:g}" for step in rising)
            raise UserError(f"The steps of a canary are {shown}; each has to be above the one before, at most 100.")
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if not least <= value <= most:
                raise OptionError(f"{name} is {value:g}; it has to be from {least:g} to {most:g}.", name)

    @staticmethod
    def stepwise(percent: float) -> Canary:
        """One that starts with so many percent and goes on by `STEPS`."""
        return Canary(percent=percent, steps=tuple(step for step in STEPS if step > percent))


_BOUNDS = (
    ("minimum_requests", 1, math.inf),
    ("step_seconds", 0, math.inf),
    ("error_margin", 0, 1),
    ("latency_percentile", 1, 100),
    ("latency_factor", 1, math.inf),
    ("latency_slack", 0, math.inf),
    ("most_deaths", 0, math.inf),
)


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed of one of the two versions since the step began.

    Attributes:
        requests: answered.
        errors: of them with a 5xx status.
        seconds: how many of the others took how long; see `traffic.bucket_of`.
    """

    requests: int = 0
    errors: int = 0
    seconds: Mapping[int, int] = {}

    def plus(self, requests: int, errors: int, seconds: Mapping[int, int]) -> Arm:
        """Both together."""
        keys = self.seconds.keys() | seconds.keys()
        merged = {key: self.seconds.get(key, 0) + seconds.get(key, 0) for key in keys}
        return Arm(requests=self.requests + requests, errors=self.errors + errors, seconds=merged)

    @property
    def error_rate(self) -> float:
        """Share of errors; 0 while nothing was answered."""
        return self.errors / self.requests if self.requests else 0.0


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A canary under way.

    Attributes:
        version: that is tried.
        canary: how.
        step: 0 for the first percentage, n for the n-th of the steps.
        since: monotonic seconds when the step began; `None` while the version is loading.
        baseline: the version that is to be replaced.
        trial: the version that is tried.
        deaths: replicas of it that ended by themselves.
    """

    version: int
    canary: Canary
    step: int = 0
    since: float | None = None
    baseline: Arm = Arm()
    trial: Arm = Arm()
    deaths: int = 0

    @property
    def percent(self) -> float:
        """Of the requests that it is given now."""
        return (self.canary.percent, *self.canary.steps)[self.step]


class Decision(msgspec.Struct, frozen=True):
    """What becomes of a canary.

    Attributes:
        what: to be done; `grow` is to start the replicas that its next part needs.
        reason: for a person.
    """

    what: Literal["wait", "grow", "advance", "promote", "roll back"]
    reason: str


def enter_step(rollout: Rollout, step: int, now: float) -> Rollout:
    """Begin a step; what was observed before counts no longer, but replicas that ended do."""
    return msgspec.structs.replace(rollout, step=step, since=now, baseline=Arm(), trial=Arm())


def decide(rollout: Rollout, now: float) -> Decision:
    """Whether a canary goes on.

    Errors end it at once, as soon as so many have come that the least number of requests could not make up for them.
    Everything else waits for enough answers of both versions.

    Args:
        rollout: what was observed.
        now: monotonic seconds.
    """
    canary, trial, baseline = rollout.canary, rollout.trial, rollout.baseline
    if rollout.since is None:
        return Decision("wait", "it is loading")
    problem = _deaths(rollout) or _errors(rollout)
    if problem:
        return Decision("roll back", problem)
    answered = min(trial.requests, baseline.requests)
    if answered < canary.minimum_requests:
        return Decision("wait", f"{answered} of {canary.minimum_requests} answers of each version have been seen")
    problem = _slowness(rollout)
    if problem:
        return Decision("roll back", problem)
    left = rollout.since + canary.step_seconds - now
    if left > 0:
        return Decision("wait", f"the step takes {left:.3g} s more")
    if rollout.step >= len(canary.steps):
        return Decision("wait", "nothing speaks against it; it waits to be promoted")
    following = canary.steps[rollout.step]
    if following < 100:
        return Decision("advance", f"{trial.requests} answers are as good as the others")
    return Decision("promote", f"{trial.requests} answers are as good as the others")


def _deaths(rollout: Rollout) -> str:
    if rollout.deaths <= rollout.canary.most_deaths:
        return ""
    return f"{rollout.deaths} of its replicas ended by themselves; {rollout.canary.most_deaths} may."


def _errors(rollout: Rollout) -> str:
    canary, trial, baseline = rollout.canary, rollout.trial, rollout.baseline
    allowed = baseline.error_rate + canary.error_margin
    if trial.errors <= allowed * max(trial.requests, canary.minimum_requests):
        return ""
    return (
        f"{trial.errors} of its {trial.requests} answers were errors, "
        f"against {baseline.errors} of the other version's {baseline.requests}."
    )


def _slowness(rollout: Rollout) -> str:
    canary = rollout.canary
    its, other = (percentile(arm.seconds, canary.latency_percentile) for arm in (rollout.trial, rollout.baseline))
    if not its > canary.latency_factor * other + canary.latency_slack:  # also where there is nothing to compare
        return ""
    return (
        f"{canary.latency_percentile:g} percent of its answers took up to {its:.3g} s, "
        f"of the other version's {other:.3g} s; {canary.latency_factor:g} times that and "
        f"{canary.latency_slack:g} s are allowed."
    )
