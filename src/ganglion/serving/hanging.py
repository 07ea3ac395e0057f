"""When a replica is held to hang, and how a gateway says so to the controller, which has it replaced.

A replica that computes for long and one that will never answer look alike. What decides is whether anybody still waits
for what it is at: as long as somebody does, it is left to it; a replica is never ended at the cost of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ganglion.serving.begun import Begun

HANGING = "hanging"
"""Key of the report in which a gateway names the replicas that hang."""

LEAST = 5.0
"""Seconds that a replica may be at a batch that nobody waits for: a machine that is short of a core, or that fetches
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


class Held(NamedTuple):
    """A batch that a gateway has sent to a replica and that is not answered.

    Attributes:
        number: of the batch.
        since: monotonic seconds at which the replica could begin it; of a call of a user's function, its deadline.
        allowed: seconds after these that it may take although nobody waits for it.
        wanted: whether anybody still waits for it.
    """

    number: int
    since: float
    allowed: float
    wanted: bool


def allowed(promised: float | None, timeout: float) -> float:
    """Seconds that a replica may be at a batch that nobody waits for.

    Args:
        promised: seconds that such a batch is hardly ever slower than; `None` while nothing is known of that.
        timeout: seconds that the model allows a request: then the only hint at how long a batch may take.
    """
    return max(LEAST, timeout if promised is None else TIMES * promised)


def hanging_since(held: Sequence[Held], begun: Begun | None, forsaken: bool, now: float) -> float | None:
    """Decide whether a replica hangs.

    Args:
        held: what one gateway has sent to the replica, in order; at least one batch.
        begun: what the replica is at; `None` where that cannot be seen, then it is held to be at the first.
        forsaken: whether what it is at belongs to a gateway that is gone.
        now: monotonic seconds.

    Returns:
        The monotonic seconds since which it does not do what it should; `None` while it may be at work.
    """
    first = held[0]
    if begun is None:
        since, patience, wanted = first.since, first.allowed, first.wanted
    elif begun.number == 0:  # what it has not begun is not lost with it, so it does not matter who waits
        since, patience, wanted = max(first.since, begun.since), LEAST, False
    else:
        own = next((batch for batch in held if batch.number == begun.number), None)
        if own is not None:
            since, patience, wanted = max(own.since, begun.since), own.allowed, own.wanted
        else:  # its own gateway decides, while there is one
            since, patience, wanted = begun.since, first.allowed, not forsaken
    return since if not wanted and now - since > patience else None


def hanging_to_data(hanging: Sequence[Hanging]) -> Any:
    """Plain data, for a report."""
    return msgspec.to_builtins(hanging)


def hanging_from_data(data: Any) -> list[Hanging]:
    """Read what `hanging_to_data` wrote."""
    return msgspec.convert(data, list[Hanging])
