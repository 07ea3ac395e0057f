"""Finds the replicas of one model version that hang, and says what those who wait behind them are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ganglion.core.log import get_logger
from ganglion.serving.begun import Begun
from ganglion.serving.gateway.batch_metrics import BatchMetrics
from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.hanging import Hanging, allowed, hanging_since
from ganglion.serving.routes import ModelRoute

_STALLED = 1.0
"""Seconds that a replica may hold a batch before it can be taken for one that has stopped."""

_STALLED_TIMES = 10.0
"""Times the promised seconds that it may, where those are longer."""

_STALLED_UNKNOWN = 10.0
"""Seconds that it may while nothing is known of how long a batch takes."""

_ASLEEP = 3.0
"""Seconds between two looks after which all processes are held to have been stopped, as with a machine that slept."""

_log = get_logger(part="serving.gateway")


class HangingWatch:
    """Looks at links every now and then.

    Two looks have to agree: a gateway that was itself stopped for a while finds replicas late whose answers it has not
    read yet.

    Args:
        latency: what is known of how long batches take.
        measured: where it is counted.
    """

    def __init__(self, latency: LatencyModel, measured: BatchMetrics) -> None:
        self._latency = latency
        self._measured = measured
        self._last: dict[str, float] = {}
        self._told: set[str] = set()
        self._looked = self._awake = 0.0

    def has_stalled(self, link: ReplicaLink, now: float) -> bool:
        """Whether a replica has held a batch for so long that it is tried at another one as well.

        It may have been stopped, or its machine is gone without a word: the connection says nothing.
        """
        if not link.batches or link.calls:
            return False
        if not self._latency.observed:
            return now - link.began >= _STALLED_UNKNOWN
        return now - link.began >= max(_STALLED, _STALLED_TIMES * self._latency.promise(link.rows))

    def look(self, links: Iterable[ReplicaLink], model: ModelRoute, now: float) -> list[Hanging]:
        """The replicas that hang, again at each look for as long as their links last.

        Args:
            links: to replicas.
            model: that they serve.
            now: monotonic seconds.
        """
        last, self._last = self._last, {}
        if self._looked and now - self._looked > _ASLEEP:
            self._awake = now  # what a replica is at cannot count from before
        self._looked = now
        found = []
        for link in links:
            if not link.batches:
                continue
            begun = link.begun
            if begun is not None:
                begun = Begun(begun.number, max(begun.since, self._awake))
            promised = self._latency.promise(link.rows) if self._latency.observed else 0.0
            patience = allowed(promised, model.timeout)
            since = hanging_since(max(link.began, self._awake), begun, patience, now)
            if since is None:
                continue
            replica = link.route.id
            self._last[replica] = since
            if last.get(replica) == since:
                hanging = Hanging(replica, now - since)
                found.append(hanging)
                self._tell(link, hanging)
        self._told.intersection_update(self._last)
        return found

    def _tell(self, link: ReplicaLink, hanging: Hanging) -> None:
        if hanging.replica in self._told:
            return
        self._told.add(hanging.replica)
        self._measured.hung()
        parts = link.begun_parts
        _log.error(
            "replica_hanging",
            replica=hanging.replica,
            seconds=round(hanging.seconds, 3),
            requests=len(parts),
            allowed=[round(part.prediction.allowed, 3) for part in parts[:8]],
        )


def describe_held(links: Mapping[str, ReplicaLink], now: float) -> str:
    """What those are told who wait for replicas that hold a batch for too long; empty where there is none.

    Args:
        links: to the replicas, by id.
        now: monotonic seconds.
    """
    late = [link for link in links.values() if link.batches and now - link.began >= _STALLED]
    if not late:
        return ""
    longest = min(late, key=lambda link: link.began)
    begun = longest.begun
    idle = begun is not None and begun.number == 0
    others = f", and {len(late) - 1} more are late" if len(late) > 1 else ""
    doing = "taken nothing" if idle else "been at one batch"
    return f" Replica {longest.route.id!r} has {doing} for {now - longest.began:.3g} s{others}."
