"""The replicas of one model version and the requests that wait for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ganglion.core.log import get_logger
from ganglion.serving.gateway.batch_queue import BatchQueue
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.metrics import Metrics
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.payload import Payload
from ganglion.serving.routes import ModelRoute, VersionRoute

MAX_QUEUE_BYTES = 256 * 2**20
"""Bytes of instances that may wait for one model version."""

_RETRY_AFTER = 1
_log = get_logger(part="serving.gateway")


class Pool:
    """Late binding: a request waits here, not at a replica, until a replica is free to take it.

    A free replica takes the largest batch there is at once; nothing waits for a batch to fill.

    Args:
        loop: the gateway's event loop.
        model: the model that the version belongs to; gives the limits.
        version: the version.
        metrics: where batches and retries are counted.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, model: ModelRoute, version: VersionRoute, metrics: Metrics
    ) -> None:
        self.model = model
        self.version = version
        self.retired = False
        self.queue: BatchQueue[Part] = BatchQueue()
        self._left = False
        self._loop = loop
        self._metrics = metrics
        self._links: dict[str, ReplicaLink] = {}
        self._leaving: set[ReplicaLink] = set()
        self._free: list[ReplicaLink] = []

    @property
    def key(self) -> tuple[str, int]:
        """Name of the model and number of the version."""
        return self.model.name, self.version.version

    @property
    def connected(self) -> int:
        """Number of replicas that can take requests now or after the one in hand."""
        return sum(link.connected for link in self._links.values())

    @property
    def attached(self) -> bool:
        """Whether there is a connection to any replica, also to one that is being left."""
        return bool(self._leaving) or self.connected > 0

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for replicas, or for the whole pool, that the routes no longer name."""
        return not self._leaving and not (self.retired and (self.queue or self._links))

    def update(self, model: ModelRoute, version: VersionRoute) -> None:
        """Take over new limits and the replicas that are ready now."""
        if self._left:
            return
        self.model, self.version = model, version
        wanted = {replica.id: replica for replica in version.replicas}
        for id_ in self._links.keys() - wanted.keys():
            self._retire_link(id_)
        for id_ in wanted.keys() - self._links.keys():
            self._links[id_] = ReplicaLink(self._loop, wanted[id_], self)

    def retire(self) -> None:
        """Take no further requests; answer those in hand, then leave the replicas."""
        self.retired = True
        self._leave_if_done()

    def give_up(self, reason: str) -> None:
        """Refuse everything that waits."""
        for part in self.queue.expire(float("inf")):
            part.prediction.fail(RequestError(503, reason))

    def submit(self, parts: Sequence[Part]) -> None:
        """Queue the parts of a request for the next free replicas.

        Raises:
            RequestError: too much is waiting already; nothing was queued.
        """
        rows = sum(part.payload.rows for part in parts)
        size = sum(part.payload.size for part in parts)
        queue = self.queue
        if queue and (queue.rows + rows > self.model.max_queue or queue.size + size > MAX_QUEUE_BYTES):
            raise RequestError(
                503,
                f"Model {self.model.name!r} is busy: {queue.rows} instances wait for {self.connected} replicas.",
                retry_after=_RETRY_AFTER,
            )
        for part in parts:
            queue.put(part)
        if self._free:
            self._dispatch()

    def split(self, payload: Payload) -> list[Payload]:
        """Cut instances into slices that fit a batch."""
        return payload.split(self.model.max_batch)

    def expire(self, now: float) -> None:
        """Answer requests whose deadline has passed, waiting or at a replica."""
        for part in self.queue.expire(now):
            text = f"No replica of model {self.model.name!r} was free within {self.model.timeout:g} s."
            part.prediction.fail(RequestError(503, text, retry_after=_RETRY_AFTER))
        for link in (*self._links.values(), *self._leaving):
            for part in link.parts:
                if part.deadline <= now:
                    text = f"The replica did not answer within {self.model.timeout:g} s."
                    part.prediction.fail(RequestError(504, text))
        if self.retired:
            self._leave_if_done()

    def abort(self) -> None:
        """Cut the connection to every replica; what they hold is lost."""
        self._left = True
        for link in (*self._links.values(), *self._leaving):
            link.abort()

    def link_free(self, link: ReplicaLink) -> None:
        """A replica can take a batch."""
        self._free.append(link)
        self._dispatch()
        if self.retired:
            self._leave_if_done()

    def link_answered(self, parts: Sequence[Part]) -> None:
        """A replica answered a batch."""
        model, version = self.model.name, str(self.version.version)
        rows = sum(part.payload.rows for part in parts)
        self._metrics.count("ganglion_batches_total", model=model, version=version)
        self._metrics.count("ganglion_instances_total", rows, model=model, version=version)

    def link_lost(self, link: ReplicaLink, parts: list[Part]) -> None:
        """A replica is gone: what it held is tried elsewhere, before everything that waits."""
        self._leaving.discard(link)
        if link in self._free:
            self._free.remove(link)
        again: list[Part] = []
        for part in parts:
            error = part.blame(alone=len(parts) == 1)
            if error is None:
                again.append(part)
            else:
                part.prediction.fail(error)
        if parts:
            _log.warning("replica_lost", replica=link.route.id, parts=len(parts), again=len(again))
            self._metrics.count("ganglion_retries_total", len(again), model=self.model.name)
        self.queue.put_back(again)
        self._dispatch()
        if self.retired:
            self._leave_if_done()

    def _dispatch(self) -> None:
        while self._free:
            batch = self.queue.take(self.model.max_batch)
            if not batch:
                return
            self._free.pop().send(batch)

    def _retire_link(self, id_: str) -> None:
        link = self._links.pop(id_)
        if link.connected:
            self._leaving.add(link)
        if link in self._free:
            self._free.remove(link)
        link.retire()

    def _leave_if_done(self) -> None:
        if not self.queue and not any(link.parts for link in self._links.values()):
            self._left = True
            for id_ in tuple(self._links):
                self._retire_link(id_)
