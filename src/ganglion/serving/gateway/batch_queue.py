"""Requests that wait for a replica: late-bound, earliest deadline first, never two kinds in one batch.

No input or output, no clock: time is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
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

Entry = tuple[float, int, P]
"""Deadline, number of arrival, part: the order in which parts are taken."""


class BatchQueue(Generic[P]):
    """Parts of requests by deadline, then by arrival; one lane for each kind.

    Attributes:
        rows: instances that wait.
        size: bytes that wait.
    """

    def __init__(self) -> None:
        self._lanes: dict[Kind, list[Entry[P]]] = {}
        self._next = 0
        self._first = -1
        self.rows = 0
        self.size = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __bool__(self) -> bool:
        return bool(self._lanes)

    @property
    def earliest(self) -> float:
        """The deadline that comes first; infinity when nothing waits."""
        return min((lane[0][0] for lane in self._lanes.values()), default=float("inf"))

    def put(self, part: P) -> None:
        """Add a part."""
        self._push(part, self._next)
        self._next += 1

    def put_back(self, parts: Sequence[P]) -> None:
        """Return parts that were taken, in their order, before all others of their deadline."""
        for part in reversed(parts):
            self._push(part, self._first)
            self._first -= 1

    def take(self, rows: int) -> list[P]:
        """Remove the part that is due first, and those of its kind due next that fit into `rows` instances with it.

        A suspect part is taken alone. Settled parts are dropped. Empty when nothing waits.
        """
        batch: list[P] = []
        while self._lanes and not batch:
            if len(self._lanes) == 1:
                ((kind, lane),) = self._lanes.items()
            else:
                kind, lane = min(self._lanes.items(), key=lambda item: item[1][0][:2])
            if lane[0][2].settled:
                self._pop(lane)  # what comes next may be of another kind
            else:
                batch = self._take_from(lane, rows)
            if not lane:
                del self._lanes[kind]
        return batch

    def expire(self, now: float) -> list[P]:
        """Remove and return the parts whose deadline has passed."""
        expired: list[P] = []
        for kind, lane in tuple(self._lanes.items()):
            while lane and lane[0][0] <= now:
                expired.append(self._pop(lane))
            if not lane:
                del self._lanes[kind]
        return expired

    def forget(self) -> None:
        """Drop settled parts: those whose callers are gone."""
        for kind, lane in tuple(self._lanes.items()):
            kept = [entry for entry in lane if not entry[2].settled]
            if len(kept) < len(lane):
                self.rows -= sum(entry[2].payload.rows for entry in lane if entry[2].settled)
                self.size -= sum(entry[2].payload.size for entry in lane if entry[2].settled)
                heapify(kept)
                self._lanes[kind] = kept
            if not kept:
                del self._lanes[kind]

    def _take_from(self, lane: list[Entry[P]], rows: int) -> list[P]:
        batch: list[P] = []
        free = rows
        while lane:
            part = lane[0][2]
            if not part.settled:
                if batch and (part.payload.rows > free or part.suspect):
                    break
                batch.append(part)
                free -= part.payload.rows
            self._pop(lane)
            if batch and (free <= 0 or part.suspect):
                break
        return batch

    def _push(self, part: P, number: int) -> None:
        payload = part.payload
        lane = self._lanes.get(payload.kind)
        if lane is None:
            lane = self._lanes[payload.kind] = []
        heappush(lane, (part.deadline, number, part))
        self.rows += payload.rows
        self.size += payload.size

    def _pop(self, lane: list[Entry[P]]) -> P:
        part = heappop(lane)[2]
        self.rows -= part.payload.rows
        self.size -= part.payload.size
        return part
