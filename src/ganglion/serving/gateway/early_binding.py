"""Requests that are given to a replica when they come, by a policy, in place of the first replica that is free."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast
from zlib import crc32

from ganglion.core.log import get_logger
from ganglion.serving.gateway.balancing import Balancer, Policy
from ganglion.serving.gateway.batch_queue import BatchQueue
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.payload import Payload

_log = get_logger(part="serving.gateway")


class EarlyBinding:
    """Gives each replica a lane of the queue, and each part a lane when it comes.

    Args:
        policy: which replica a part is given to.
        links: those of the pool, as they are at any time.
        queue: where parts wait.
    """

    def __init__(self, policy: Policy, links: Mapping[str, ReplicaLink], queue: BatchQueue[Part]) -> None:
        self.policy = policy
        self._balancer = Balancer(policy)
        self._links = links
        self._queue = queue
        self._numbers = itertools.count()
        self._lanes: dict[str, int] = {}

    def bind(self, parts: Sequence[Part], now: float) -> None:
        """Choose a replica for each; without one, the first that is there takes them."""
        links = self._links
        self._balancer.sync(links, now)
        for id_ in links.keys() - self._lanes.keys():
            self._lanes[id_] = next(self._numbers)
        usable = [(id_, link) for id_, link in links.items() if link.connected and not link.stalled]
        outstanding = {id_: self._queue.waiting(self._lanes[id_]) + len(link.parts) for id_, link in usable}
        for part in parts:
            chosen = self._balancer.choose(_hash(part.payload), outstanding, now)
            part.shard = self._lanes[chosen] if chosen is not None else None
            if chosen is not None:
                outstanding[chosen] += 1

    def lanes(self, link: ReplicaLink) -> frozenset[int]:
        """What a replica takes beside that which is bound to none."""
        lane = self._lanes.get(link.route.id)
        return frozenset(() if lane is None else (lane,))

    def release(self, link: ReplicaLink) -> list[Part]:
        """Remove from the queue what waits for a replica that takes nothing now, and return it."""
        lane = self._lanes.get(link.route.id)
        return self._queue.withdraw(lane) if lane is not None else []

    def answered(self, link: ReplicaLink, seconds: float, now: float) -> None:
        """A replica answered a batch."""
        self._balancer.ended(link.route.id, now, seconds)

    def failed(self, link: ReplicaLink, now: float) -> None:
        """A replica ended, or stopped, with a batch in hand."""
        if self._balancer.ended(link.route.id, now, None):
            _log.warning("replica_ejected", replica=link.route.id)


def _hash(payload: Payload) -> int:
    """Equal for equal content."""
    key = 0
    for image in payload.images:
        key = crc32(image, key)
    for name in payload.tensors:
        key = crc32(cast(Any, payload.column(name)), key)  # arrays are buffers, which their stubs do not say
    return key
