"""Requests that wait for a replica: late-bound, first come first served, never two kinds in one batch.

No input or output, no clock: time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from ganglion.serving.payload import Kind, Payload


class Waiting(Protocol):
    """What the queue needs to know of a part of a request."""

    @property
    def payload(self) -> Payload:
        """Its instances."""
        ...

    @property
    def deadline(self) -> float:
        """Monotonic seconds after which its answer is of no use."""
        ...

    @property
    def suspect(self) -> bool:
        """Whether a replica died with it; then it is sent alone."""
        ...

    @property
    def settled(self) -> bool:
        """Whether nobody waits for it any more."""
        ...


P = TypeVar("P", bound=Waiting)


class BatchQueue(Generic[P]):
    """Parts of requests in order of arrival, one lane for each kind."""

    def __init__(self) -> None:
        self._lanes: dict[Kind, deque[tuple[int, P]]] = {}
        self._next = 0
        self._first = -1
        self.rows = 0
        self.size = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def put(self, part: P) -> None:
        """Add a part at the end."""
        self._lanes.setdefault(part.payload.kind, deque()).append((self._next, part))
        self._next += 1
        self._count(part, 1)

    def put_back(self, parts: Sequence[P]) -> None:
        """Return parts that were taken, in their order, before everything else."""
        for part in reversed(parts):
            self._lanes.setdefault(part.payload.kind, deque()).appendleft((self._first, part))
            self._first -= 1
            self._count(part, 1)

    def take(self, rows: int) -> list[P]:
        """Remove the oldest part and as many of its kind behind it as fit into `rows` instances.

        A suspect part is taken alone. Settled parts are dropped. Empty when nothing waits.
        """
        batch: list[P] = []
        while self._lanes and not batch:
            kind = min(self._lanes, key=lambda kind: self._lanes[kind][0][0])
            lane = self._lanes[kind]
            if lane[0][1].settled:
                self._count(lane.popleft()[1], -1)
            else:
                batch = self._take_from(lane, rows)
            if not lane:
                del self._lanes[kind]
        return batch

    def expire(self, now: float) -> list[P]:
        """Remove and return the parts whose deadline has passed."""
        expired: list[P] = []
        for kind, lane in tuple(self._lanes.items()):
            late = [part for _, part in lane if part.deadline <= now]
            if late:
                expired += late
                self._lanes[kind] = deque(entry for entry in lane if entry[1].deadline > now)
                if not self._lanes[kind]:
                    del self._lanes[kind]
        for part in expired:
            self._count(part, -1)
        return expired

    def _take_from(self, lane: deque[tuple[int, P]], rows: int) -> list[P]:
        batch: list[P] = []
        free = rows
        while lane:
            part = lane[0][1]
            if not part.settled:
                if batch and (part.payload.rows > free or part.suspect):
                    break
                batch.append(part)
                free -= part.payload.rows
            lane.popleft()
            self._count(part, -1)
            if batch and (free <= 0 or part.suspect):
                break
        return batch

    def _count(self, part: P, sign: int) -> None:
        self.rows += sign * part.payload.rows
        self.size += sign * part.payload.size
