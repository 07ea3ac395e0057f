"""The links of a pool as workers of different speed: which of them takes what waits, and how long it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.replica_choice import SLOWER, Worker, busy_seconds, share, slower, wait
from ganglion.serving.gateway.replica_link import ReplicaLink

_PART = 0.25
"""Part of the seconds left until the earliest deadline that a batch may take where a larger one gains nothing."""

BRIEF = 0.005
"""Seconds of a batch below which its way takes a good part of it."""

_PROBE_SECONDS = 1.0
_PROBE_BATCHES = 1000
"""Seconds and batches for which a slow replica is left out before one instance shows how it does now."""


class LinkChoice:
    """Compares links by what is known of their latency.

    Args:
        links: those of the pool, as they are at any time.
        common: what is known of all replicas; counts where little is known of one.
    """

    def __init__(self, links: Mapping[str, ReplicaLink], common: LatencyModel) -> None:
        self._links = links
        self._common = common
        self._left_out: dict[ReplicaLink, tuple[int, float]] = {}

    def model_of(self, link: ReplicaLink) -> LatencyModel:
        """What is known of a replica; while that is little, of all.

        Two batches are enough for the suspicion that it is slow, if neither was fast: requests are not spent on being
        certain of it.
        """
        own = link.latency
        if own.known:
            return own
        seconds, rows = own.fastest
        suspected = own.tried and seconds > SLOWER * self._common.predict(rows) > 0.0
        return own if suspected else self._common

    def observe(self, link: ReplicaLink, rows: int, seconds: float) -> None:
        """A replica answered a batch of so many instances within `seconds`."""
        if link in self._left_out and SLOWER * seconds < link.latency.predict(rows):
            link.latency = LatencyModel()  # it is not what it was: its next few batches say what it is
        link.latency.observe(rows, seconds)

    def wait(self, rows: int, most: int, allowed: float, now: float) -> float:
        """Seconds within which the last of `rows` instances is answered; 0 where no replica is connected.

        Args:
            rows: those that wait, and those asked about.
            most: instances of the largest batch.
            allowed: seconds that the request may take.
            now: monotonic seconds.
        """
        workers = self._workers(now)
        return wait(rows, most, workers, allowed) if workers else 0.0

    def soonest(self) -> float:
        """Seconds within which one instance is answered by the fastest replica."""
        if len(self._links) == 1:
            return self.model_of(next(iter(self._links.values()))).promise(1)
        models = [self.model_of(link) for link in self._links.values() if _usable(link)]
        return min((model.promise(1) for model in models), default=self._common.promise(1))

    def take_free(self, free: list[ReplicaLink]) -> ReplicaLink:
        """Remove the link that was free last among those that are about as fast as the fastest free one."""
        if len(free) == 1:
            return free.pop()
        fastest = min((self.model_of(link) for link in free), key=lambda model: model.predict(1))
        for place in reversed(range(len(free))):
            if not slower(self.model_of(free[place]), fastest):
                return free.pop(place)
        return free.pop()

    def share(
        self, link: ReplicaLink, free: Sequence[ReplicaLink], rows: int, most: int, *, batches: int, now: float
    ) -> int:
        """Instances that a free replica takes now; 0 where others are done with them sooner.

        Args:
            link: the free replica.
            free: the other free ones.
            rows: instances that wait.
            most: instances of the largest batch.
            batches: that the pool has had answered.
            now: monotonic seconds.
        """
        if len(self._links) == 1:
            return min(most, rows)
        model = self.model_of(link)
        alike = 1 + sum(not slower(self.model_of(other), model) for other in free)
        taken = share(Worker(model, 0.0), self._workers(now, link), rows, most, alike)
        if taken:
            self._left_out.pop(link, None)
            return taken
        before, since = self._left_out.setdefault(link, (batches, now))
        if now - since >= _PROBE_SECONDS and batches - before >= _PROBE_BATCHES:
            self._left_out[link] = batches, now
            return 1  # it may have become fast again
        return 0

    def is_slow(self, link: ReplicaLink) -> bool:
        """Whether any other replica is much faster."""
        model = self.model_of(link)
        return any(slower(model, self.model_of(other)) for other in self._links.values() if _usable(other))

    def largest(self, link: ReplicaLink, most: int, left: float) -> int:
        """Instances of the batch that a replica is given: all that are promised in time, unless fewer do as well.

        Batches in a row that are hardly slower than a large one are nearer to what was expected of them; what comes
        meanwhile is still free to go elsewhere, and nobody waits for the last of many.

        Args:
            link: the replica.
            most: instances of the largest batch.
            left: seconds until the earliest deadline.
        """
        if most == 1:
            return 1
        model = self.model_of(link)
        promised = model.largest(most, left)
        worthwhile = model.worthwhile(most)
        if promised <= worthwhile:
            return promised
        return min(promised, max(worthwhile, model.most_within(most, max(BRIEF, _PART * left))))

    def forget(self, link: ReplicaLink) -> None:
        """A link is not one of the pool's any more."""
        self._left_out.pop(link, None)

    def _workers(self, now: float, but: ReplicaLink | None = None) -> list[Worker]:
        """The replicas that take requests, all or all but one."""
        workers = []
        for link in self._links.values():
            if _usable(link) and link is not but:
                model = self.model_of(link)
                busy = busy_seconds(model, link.rows, now - link.began) if link.batches else 0.0
                workers.append(Worker(model, busy))
        return workers


def _usable(link: ReplicaLink) -> bool:
    return link.connected and not link.stalled
