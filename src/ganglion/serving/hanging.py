"""When a replica is held to hang, and how a gateway says so to the controller, which has it replaced.

A replica that computes for long and one that will never answer look alike. What tells them apart is the time that the
model allows a request: what takes longer is of use to nobody. How little a single caller had is no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ganglion.serving.begun import Begun

HANGING = "hanging"
"""Key of the report in which a gateway names the replicas that hang."""

LEAST = 5.0
"""Seconds that a replica may be at a batch or take none, at least: a machine that is short of a core, or that fetches
what was swapped out, is late by a second or two, and a replica that is replaced by mistake costs the start of another.
"""

TIMES = 10.0
"""Times the promised seconds that it may, where those are longer: one batch in a thousand takes more than the promise,
and hardly any several times as long.
"""


class Hanging(msgspec.Struct, frozen=True):
    """A replica that hangs.

    Attributes:
        replica: id of its attempt, as in its route.
        seconds: that it has been at one batch.
    """

    replica: str
    seconds: float


def allowed(promised: float, timeout: float) -> float:
    """Seconds that a replica may be at one batch.

    Args:
        promised: seconds that such a batch is hardly ever slower than; 0 while nothing is known of that.
        timeout: seconds that the model allows a request.
    """
    return max(LEAST, timeout, TIMES * promised)


def hanging_since(could: float, begun: Begun | None, patience: float, now: float) -> float | None:
    """Decide whether a replica hangs that has been given a batch.

    Args:
        could: monotonic seconds at which it could begin the first that it has not answered.
        begun: what it is at, perhaps for another gateway; `None` where that cannot be seen.
        patience: seconds that it may be at one batch.
        now: monotonic seconds.

    Returns:
        The monotonic seconds since which it does not do what it should; `None` while it may be at work.
    """
    if begun is None:
        since = could
    elif begun.number == 0:  # it takes nothing
        since, patience = max(could, begun.since), LEAST
    else:
        since = begun.since
    return since if now - since > patience else None


def hanging_to_data(hanging: Sequence[Hanging]) -> Any:
    """Plain data, for a report."""
    return msgspec.to_builtins(hanging)


def hanging_from_data(data: Any) -> list[Hanging]:
    """Read what `hanging_to_data` wrote."""
    return msgspec.convert(data, list[Hanging])
