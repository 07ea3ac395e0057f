"""How often to save: what a checkpoint costs against the work that is lost without one; pure."""

from __future__ import annotations

import math


def interval(cost: float, failures_apart: float, *, shortest: float, longest: float) -> float:
    """Seconds of training between two checkpoints that waste the least.

    The estimate is that of J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
    Future Generation Computer Systems 22 (2006), equation 37; its first term is that of J. W. Young, "A first order
    approximation to the optimum checkpoint interval", Communications of the ACM 17 (1974).

    Args:
        cost: seconds by which a checkpoint makes the training longer.
        failures_apart: mean seconds between failures that only a checkpoint helps against.
        shortest: what it is at least.
        longest: what it is at most.
    """
    if cost >= 2 * failures_apart:
        best = failures_apart
    else:
        ratio = cost / (2 * failures_apart)
        best = math.sqrt(2 * cost * failures_apart) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost
    return min(max(best, shortest), longest)


def failures_apart(expected: float, seconds: float, losses: int) -> float:
    """Mean seconds between failures, from what was expected and what was seen.

    This is the expectation weighted as one failure: the posterior of a rate under a gamma prior of shape 1.

    Args:
        expected: seconds between failures, before any was seen.
        seconds: that the training has run, over all of its lives.
        losses: how often all of its workers were lost.
    """
    return (expected + seconds) / (1 + losses)
