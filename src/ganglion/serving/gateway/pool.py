"""The replicas of one model version and the requests that wait for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from ganglion.core.log import get_logger
from ganglion.serving.gateway.batch_queue import BatchQueue
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.metrics import INSTANCES, SECONDS, Histogram, Metrics
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.payload import Payload
from ganglion.serving.routes import ModelRoute, VersionRoute

MAX_QUEUE_BYTES = 256 * 2**20
"""Bytes of instances that may wait for one model version."""

_RETRY_AFTER = 1
_BRIEF = 0.005
"""Seconds for a full batch below which the next one is sent ahead: its way takes a good part of that."""

_EXPIRY_INTERVAL = 0.5
"""Requests that allow fewer seconds are looked at when these are over; the others at the gateway's ticks."""

_log = get_logger(part="serving.gateway")


class Pool:
    """Late binding: a request waits here, not at a replica, until a replica is free to take it.

    A free replica takes at once the largest batch that still meets the earliest deadline, several free ones share what
    waits evenly; nothing waits for a batch to fill.

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
        self.latency = LatencyModel()
        self._left = False
        self._loop = loop
        self._metrics = metrics
        self._links: dict[str, ReplicaLink] = {}
        self._leaving: set[ReplicaLink] = set()
        self._free: list[ReplicaLink] = []
        self._scheduled = False
        self._brief = False
        labels = {"model": model.name, "version": str(version.version)}
        self._batches = metrics.counter("ganglion_batches_total", **labels)
        self._instances = metrics.counter("ganglion_instances_total", **labels)
        self._queued = metrics.histogram("ganglion_queue_seconds", SECONDS, **labels)
        self._measured: dict[str, tuple[Histogram, Histogram]] = {}

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
            labels = {"model": model.name, "version": str(version.version), "replica": id_}
            self._measured[id_] = (
                self._metrics.histogram("ganglion_batch_seconds", SECONDS, **labels),
                self._metrics.histogram("ganglion_batch_instances", INSTANCES, **labels),
            )

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
            RequestError: too much is waiting already, or so much that the request would be answered too late; nothing
                was queued.
        """
        queue = self.queue
        if queue or not self._free:
            self._check_room(parts)
        for part in parts:
            queue.put(part)
        if (self._free or self._brief) and not self._scheduled:
            # At the end of this turn of the loop, so that what has arrived together goes together; it is no wait.
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        if parts[0].prediction.allowed < _EXPIRY_INTERVAL:
            self._loop.call_later(parts[0].prediction.allowed, self._expire_now)

    def split(self, payload: Payload) -> list[Payload]:
        """Cut instances into slices that fit a batch."""
        return payload.split(self.model.max_batch)

    def expire(self, now: float) -> None:
        """Answer requests whose deadline has passed, waiting or at a replica."""
        for part in self.queue.expire(now):
            self._refuse_late(part)
        for link in (*self._links.values(), *self._leaving):
            for part in link.parts:
                if part.deadline <= now:
                    text = f"The replica did not answer within {part.prediction.allowed:.3g} s."
                    part.prediction.fail(RequestError(504, text))
        self.queue.forget()
        if self.retired:
            self._leave_if_done()

    def abort(self) -> None:
        """Cut the connection to every replica; what they hold is lost."""
        self._left = True
        for link in (*self._links.values(), *self._leaving):
            link.abort()

    def link_free(self, link: ReplicaLink) -> None:
        """A replica can take a batch, or one more."""
        if not link.batches:
            self._free.append(link)
        self._dispatch()
        if self.retired:
            self._leave_if_done()

    def link_answered(self, link: ReplicaLink, rows: int, seconds: float) -> None:
        """A replica answered a batch."""
        self.latency.observe(rows, seconds)
        self._brief = self.latency.predict(self.model.max_batch) < _BRIEF
        self._batches.add()
        self._instances.add(rows)
        times, sizes = self._measured[link.route.id]
        times.observe(seconds)
        sizes.observe(rows)

    def link_lost(self, link: ReplicaLink, parts: list[Part], untouched: list[Part]) -> None:
        """A replica is gone: what it held is tried elsewhere, before everything that waits of the same deadline."""
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
            self._metrics.counter("ganglion_retries_total", model=self.model.name).add(len(again))
        self.queue.put_back([*again, *untouched])
        self._dispatch()
        if self.retired:
            self._leave_if_done()

    def _check_room(self, parts: Sequence[Part]) -> None:
        rows = sum(part.payload.rows for part in parts)
        size = sum(part.payload.size for part in parts)
        queue, model = self.queue, self.model
        if queue and (queue.rows + rows > model.max_queue or queue.size + size > MAX_QUEUE_BYTES):
            text = f"Model {model.name!r} is busy: {queue.rows} instances wait for {self.connected} replicas."
            raise RequestError(503, text, retry_after=_RETRY_AFTER)
        if self._free or not self.connected:
            return
        now = monotonic()
        busy = min(
            max(0.0, self.latency.predict(link.rows) - (now - link.began))
            for link in self._links.values()
            if link.connected
        )
        wait = self.latency.wait(queue.rows + rows, model.max_batch, self.connected, busy)
        if now + wait > parts[0].deadline:
            text = (
                f"Model {model.name!r} is busy: an answer would take {wait:.3g} s, "
                f"and the request allows {parts[0].prediction.allowed:.3g} s."
            )
            raise RequestError(503, text, retry_after=_RETRY_AFTER)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._free and self.queue:
            now = monotonic()
            earliest = self.queue.earliest
            if earliest <= now + self.latency.promise(1):
                self._shed(now)
                earliest = self.queue.earliest
            share = -(-self.queue.rows // len(self._free))
            batch = self._take(min(share, self.model.max_batch), earliest, now)
            if not batch:
                return
            self._free.pop().send(batch)
        if self._brief and self.queue:
            self._send_ahead()

    def _send_ahead(self) -> None:
        """Give replicas that are at a short batch the next one, unless that would be a small one for no gain."""
        now = monotonic()
        for link in self._links.values():
            if link.connected and link.batches == 1 and 2 * self.queue.rows >= link.rows:
                batch = self._take(self.model.max_batch, self.queue.earliest, now)
                if batch:
                    link.send(batch)

    def _take(self, most: int, earliest: float, now: float) -> list[Part]:
        batch = self.queue.take(self.latency.largest(most, earliest - now))
        for part in batch:
            self._queued.observe(now - part.prediction.began)
        return batch

    def _shed(self, now: float) -> None:
        """Refuse what can no longer be answered in time, so that the rest can.

        What is expected to be late is still tried where nothing else waits: the expectation may be wrong.
        """
        late = self.queue.expire(now + self.latency.promise(1))
        if not self.queue:
            self.queue.put_back([part for part in late if part.deadline > now])
            late = [part for part in late if part.deadline <= now]
        for part in late:
            self._refuse_late(part)

    def _refuse_late(self, part: Part) -> None:
        text = f"No replica of model {self.model.name!r} was free within {part.prediction.allowed:.3g} s."
        part.prediction.fail(RequestError(503, text, retry_after=_RETRY_AFTER))

    def _expire_now(self) -> None:
        self.expire(monotonic())

    def _retire_link(self, id_: str) -> None:
        link = self._links.pop(id_)
        self._metrics.forget("replica", id_)
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
