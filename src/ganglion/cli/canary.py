"""How a newer version is tried, as it is said on the command line."""

from __future__ import annotations

from ganglion.core.errors import OptionError, UserError
from ganglion.serving.rollout import Canary


def canary_of(percent: float | None, steps: str | None) -> Canary | None:
    """What is meant by `--canary` and `--steps`; without the first, the first step is it.

    Raises:
        UserError: the steps are not percentages that rise.
    """
    if percent is None and steps is None:
        return None
    try:
        following = tuple(float(step) for step in steps.split(",")) if steps is not None else ()
    except ValueError as error:
        raise UserError(f"--steps is {steps!r}; percentages are expected, such as 25,50,100.") from error
    try:
        if percent is None:
            return Canary(percent=following[0], steps=following[1:])
        return Canary(percent=percent, steps=following)
    except OptionError as error:
        raise error.renamed(lambda _name: "--steps" if percent is None else "--canary") from None
