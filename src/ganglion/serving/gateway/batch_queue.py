"""Requests that wait for a replica: late-bound, earliest deadline first, never two kinds or shards in one batch.

No input or output, no clock: time is passed in.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
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
    def shard(self) -> int | None:
        """The shard that has to answer it; `None` for any replica."""
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

LaneKey = tuple[Kind, int | None]
"""Kind and shard."""


class BatchQueue(Generic[P]):
    """Parts of requests by deadline, then by arrival; one lane for each kind and shard.

    Attributes:
        rows: instances that wait.
        size: bytes that wait.
    """

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, list[Entry[P]]] = {}
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
        if len(self._lanes) == 1:
            (lane,) = self._lanes.values()
            return lane[0][0]
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

    def take(self, rows: int, shards: Container[int] = ()) -> list[P]:
        """Remove the part that is due first, and those of its kind due next that fit into `rows` instances with it.

        A suspect part is taken alone. Settled parts are dropped. Empty when nothing waits that may be taken.

        Args:
            rows: instances of the largest batch.
            shards: whose parts may be taken beside those of no shard.
        """
        batch: list[P] = []
        while not batch:
            if len(self._lanes) == 1:
                ((key, lane),) = self._lanes.items()
                if not (key[1] is None or key[1] in shards):
                    break
            else:
                allowed = [item for item in self._lanes.items() if item[0][1] is None or item[0][1] in shards]
                if not allowed:
                    break
                key, lane = min(allowed, key=lambda item: item[1][0][:2])
            if lane[0][2].settled:
                self._pop(lane)  # what comes next may be of another kind
            else:
                batch = self._take_from(lane, rows)
            if not lane:
                del self._lanes[key]
        return batch

    def expire(self, now: float) -> list[P]:
        """Remove and return the parts whose deadline has passed."""
        expired: list[P] = []
        for key, lane in tuple(self._lanes.items()):
            while lane and lane[0][0] <= now:
                expired.append(self._pop(lane))
            if not lane:
                del self._lanes[key]
        return expired

    def waiting(self, shard: int) -> int:
        """Parts that wait for a shard."""
        return sum(len(lane) for key, lane in self._lanes.items() if key[1] == shard)

    def withdraw(self, shard: int) -> list[P]:
        """Remove and return the parts that wait for a shard, in order."""
        found: list[P] = []
        for key, lane in tuple(self._lanes.items()):
            if key[1] == shard:
                while lane:
                    found.append(self._pop(lane))
                del self._lanes[key]
        return found

    def forget(self) -> None:
        """Drop settled parts: those whose callers are gone."""
        for key, lane in tuple(self._lanes.items()):
            kept = [entry for entry in lane if not entry[2].settled]
            if len(kept) < len(lane):
                self.rows -= sum(entry[2].payload.rows for entry in lane if entry[2].settled)
                self.size -= sum(entry[2].payload.size for entry in lane if entry[2].settled)
                heapify(kept)
                self._lanes[key] = kept
            if not kept:
                del self._lanes[key]

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
        key = (payload.kind, part.shard)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = []
        heappush(lane, (part.deadline, number, part))
        self.rows += payload.rows
        self.size += payload.size

    def _pop(self, lane: list[Entry[P]]) -> P:
        part = heappop(lane)[2]
        self.rows -= part.payload.rows
        self.size -= part.payload.size
        return part
