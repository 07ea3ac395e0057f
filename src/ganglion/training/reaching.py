"""Which peers a process cannot reach although its controller reaches both, as it tells the controller.

A link that fails for a moment costs less than to form a roster without somebody. So a peer is reported only when its
host has not answered for some seconds. The controller decides which of the two is left out (`execution.links`); that
one tries from time to time, and says so when it reaches the others again. Where it was left out soon after it came
back, it waits longer before it tries: a link may let small messages through and lose large ones.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable

from ganglion.execution.member import Peer, connect

UNREACHABLE = 3.0
"""Seconds for which the host of a peer has not answered when it is reported."""

AGAIN = 1.0
"""Seconds after which it is reported again: the controller itself may not have been reached."""

FIRST_TRY = 0.5
"""Seconds between two attempts of one that was left out."""

REPEAT = 10.0
"""Seconds after which one that reaches all tries again, where it still is left out."""

LONGEST_TRY = 60.0
"""The same for one whose links fail over and over, at most; and seconds after which it is trusted again."""

_TIMEOUT = 1.0

_NO_ANSWER = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)

Key = tuple[str, int]


class Reaching:
    """What a process knows of the links to its peers.

    Args:
        report: tells the controller of a peer whether the link to it works.
        answers: whether somebody answers at an endpoint.
        clock: monotonic seconds.

    Attributes:
        pause: seconds between two attempts to reach those who take part.
    """

    def __init__(
        self,
        report: Callable[[Peer, bool], None],
        *,
        answers: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._answers = answers or answering
        self._clock = clock
        self._silences: dict[Key, tuple[float, float]] = {}
        self._reported: dict[Key, float] = {}
        self._returned = float("-inf")
        self._tries_at = float("-inf")
        self._outside = False
        self._took_part = False
        self._mute: Key | None = None
        self.pause = FIRST_TRY

    def silent(self, peer: Peer, seconds: float) -> None:
        """The link to a peer is there, but its host has not answered for so long; to be called while that is so."""
        now = self._clock()
        self._note(peer, now - seconds, now)

    def failed(self, peer: Peer, began: float) -> None:
        """An attempt to connect with a peer, begun then, has failed since its host did not answer."""
        now = self._clock()
        since, last = self._silences.get(_key(peer), (began, now))
        self._note(peer, since if now - last <= UNREACHABLE else began, now)

    def _note(self, peer: Peer, since: float, now: float) -> None:
        key = _key(peer)
        self._silences[key] = since, now
        if now - since >= UNREACHABLE and now - self._reported.get(key, float("-inf")) >= AGAIN:
            self._reported[key] = now
            self._report(peer, False)

    def met(self) -> None:
        """All peers of a roster have been reached; this process takes part."""
        self._silences.clear()
        self._reported.clear()
        if self._outside and self._took_part:
            self._returned = self._clock()
        self._outside = False
        self._took_part = True

    def left_out(self, peers: Iterable[Peer]) -> None:
        """This process is not among those who take part, `peers`: try to reach them, if it is time to."""
        now = self._clock()
        if not self._outside:
            self._outside = True
            again = now - self._returned < LONGEST_TRY
            self.pause = min(LONGEST_TRY, 2 * self.pause) if again else FIRST_TRY
            self._tries_at = now + self.pause
        if now < self._tries_at:
            return
        pause = REPEAT if self._reach(peers) else self.pause
        self._tries_at = self._clock() + pause

    def _reach(self, peers: Iterable[Peer]) -> bool:
        """Try one after the other, first the one that did not answer last, until one does not; whether all do.

        Those who take part accept nobody until they form a roster, and their queues are short. So whoever answers is
        not dialled over and over for the sake of another one.
        """
        for peer in sorted(peers, key=lambda peer: _key(peer) != self._mute):
            if not self._answers(peer.endpoint):
                self._mute = _key(peer)
                return False
            self._report(peer, True)
        self._mute = None
        return True


def answering(endpoint: str) -> bool:
    """Whether somebody answers at the endpoint of a peer."""
    try:
        connect(endpoint, _TIMEOUT).close()
    except OSError:
        return False
    return True


def is_unreachable(error: OSError) -> bool:
    """Whether an attempt to connect has failed because no host answered.

    A host that refuses is there, and what this process itself lacks (descriptors, a name server) says nothing of it.
    """
    return isinstance(error, TimeoutError) or error.errno in _NO_ANSWER


def _key(peer: Peer) -> Key:
    return peer.member, peer.attempt
