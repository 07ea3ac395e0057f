"""Who of an elastic gang is out of reach; pure.

Members whose control channel crosses a network pulse, and are answered. One that was not heard of for a while has
stopped, or the network between it and the controller has failed: from afar nobody can tell. It is left out until it is
heard of again, which costs it nothing but its turn: its process goes on, and so does what it holds.

A busy machine makes pulses late, so the patience with a member grows with the gaps that it has shown before. Silence
proves nothing by itself, either: when nobody is heard, it is the controller that is cut off or was held up. So a member
is left out only if another one was heard of just now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

PULSE = 0.15
"""Seconds between two pulses."""

PATIENCE = 0.6
"""Seconds of silence after which a member that was always on time is out of reach."""

LONGEST_PATIENCE = 5.0
"""Seconds after which the least punctual one is."""

UNANSWERED = 1.0
"""Seconds without an answer after which a member gives up its channel and dials anew."""

LATE = 0.05
"""Seconds by which the controller may be late at a deadline; if it is more it was held up, and first has to listen."""

_MARGIN = 3.0
_FADING = 0.98


class Presence(msgspec.Struct, frozen=True):
    """The pulses of a member.

    Attributes:
        heard: when the last one came, in monotonic seconds.
        widest: seconds between two of them as they were sent; the widest gap, which fades within a minute.
    """

    heard: float
    widest: float = 0.0

    @property
    def patience(self) -> float:
        """Seconds of silence that are nothing unusual for it."""
        return min(LONGEST_PATIENCE, max(PATIENCE, _MARGIN * self.widest))


def hear(presence: Presence | None, now: float, gap: float) -> Presence:
    """Take in a pulse.

    Args:
        presence: of the member so far, if there is any.
        now: monotonic seconds.
        gap: seconds since it had sent the one before; what a network keeps back does not count against it.
    """
    return Presence(now, max(gap, presence.widest * _FADING if presence is not None else 0.0))


def due(presences: Collection[Presence]) -> float | None:
    """When the first of them has been silent for too long, if no pulse comes; `None` if there is nobody to miss."""
    return min((presence.heard + presence.patience for presence in presences), default=None)


def silent(presences: Mapping[str, Presence], now: float) -> frozenset[str]:
    """Who is out of reach.

    Args:
        presences: of those who take part, by member.
        now: monotonic seconds.

    Returns:
        Members that have been silent for longer than is usual for them while another one was heard of; never all.
    """
    if not any(now - presence.heard <= 2 * PULSE for presence in presences.values()):
        return frozenset()
    return frozenset(name for name, presence in presences.items() if now - presence.heard >= presence.patience)
