"""The replicas of one model version and the requests that wait for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from time import monotonic

from ganglion.core.log import get_logger
from ganglion.serving.gateway.batch_metrics import GATEWAY, BatchMetrics
from ganglion.serving.gateway.batch_queue import BatchQueue
from ganglion.serving.gateway.early_binding import EarlyBinding
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.fused_link import LinkOpener
from ganglion.serving.gateway.hanging_watch import HangingWatch, describe_held
from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.link_choice import BRIEF, LinkChoice
from ganglion.serving.gateway.load_meter import LoadMeter
from ganglion.serving.gateway.metrics import Metrics
from ganglion.serving.gateway.prediction import Part, due_of
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.gateway.second_tries import MOST_DEATHS, VERDICT_PATIENCE, SecondTries
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import Load
from ganglion.serving.payload import Payload
from ganglion.serving.routes import ModelRoute, VersionRoute
from ganglion.serving.sharding import shards_of

MAX_QUEUE_BYTES = 256 * 2**20
"""Bytes of instances that may wait for one model version."""

_RETRY_AFTER = 1

_EXPIRY_INTERVAL = 0.5
"""Requests that allow fewer seconds are looked at when these are over; the others at the gateway's ticks."""

_TIMER = 0.001
"""Seconds by which a timer of the loop may be too early."""

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
        wake: called when a request comes, the first of several, while there is no replica.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        model: ModelRoute,
        version: VersionRoute,
        metrics: Metrics,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.retired = False
        self.queue: BatchQueue[Part] = BatchQueue()
        self.latency = LatencyModel()
        self._meter = LoadMeter(model.name, version.version, monotonic())
        self._second_tries = SecondTries(loop, version.version, monotonic())
        self._wake = wake or (lambda: None)
        self._woken = False
        self._left = False
        self._loop = loop
        self._measured = BatchMetrics(metrics, model.name, version.version)
        self._watch = HangingWatch(self.latency, self._measured)
        self._opener = LinkOpener(loop, self)
        self._links: dict[str, ReplicaLink] = {}
        self._leaving: set[ReplicaLink] = set()
        self._free: list[ReplicaLink] = []
        self._scheduled = False
        self._choice = LinkChoice(self._links, self.latency)
        self._brief = False
        self._shards = 0
        self._early: EarlyBinding | None = None
        self._hopeful = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """Name of the model and number of the version."""
        return self.model.name, self.version.version

    @property
    def connected(self) -> int:
        """Number of replicas that can take requests now or after the one in hand."""
        return sum(link.connected for link in self._links.values())

    @property
    def ready(self) -> bool:
        """Whether it can answer: also without a replica, where a request starts one."""
        started = self.model.elastic and self.version.state == "AVAILABLE" and not self.version.error
        return self.connected > 0 or started

    @property
    def attached(self) -> bool:
        """Whether there is a connection to any replica, also to one that is being left."""
        return bool(self._leaving) or self.connected > 0

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for replicas, or for the whole pool, that the routes no longer name."""
        return not self._leaving and not (self.retired and (self.queue or self._links or self._second_tries.holding))

    def update(self, model: ModelRoute, version: VersionRoute) -> None:
        """Take over new limits and the replicas that are ready now."""
        if self._left:
            return
        self.model, self.version = model, version
        self._try_again(self._second_tries.hear(version.ends, model, monotonic()))
        self._choose_binding()
        if model.sharding is not None:
            self._shards = max(self._shards, model.sharding.shards)  # what waits was cut into as many
        if version.replicas or version.error:
            self._woken = False
        if version.error:
            self.give_up(self._unable())
        wanted = {replica.id: replica for replica in version.replicas}
        for id_ in self._links.keys() - wanted.keys():
            self._retire_link(id_)
        for id_ in wanted.keys() - self._links.keys():
            self._links[id_] = self._opener.open(wanted[id_], version.package)
            self._measured.add(id_)
        if version.package:
            self._measured.add(GATEWAY)
        if (self._shards or self._early is not None) and self.queue:
            self._dispatch()  # shards of a replica that went are another's now

    def retire(self) -> None:
        """Take no further requests; answer those in hand, then leave the replicas."""
        self.retired = True
        self._leave_if_done()

    def give_up(self, reason: str) -> None:
        """Refuse everything that waits."""
        for part in self.queue.expire(float("inf")):
            part.prediction.fail(RequestError(503, reason))

    def submit(self, parts: Sequence[Part], *, admitted: bool = False) -> None:
        """Queue the parts of a request for the next free replicas.

        Args:
            parts: they, in order.
            admitted: they belong to a request that has been let in already and are not refused.

        Raises:
            RequestError: too much is waiting already, or so much that the request would be answered too late, or no
                replica can be started; nothing was queued.
        """
        if not self._links:
            self._begin()
        queue = self.queue
        if not admitted and (queue.rows or not self._free):
            self._check_room(parts)
        self._meter.count()
        self._second_tries.count()
        if self._early is not None:
            self._early.bind(parts, monotonic())
        for part in parts:
            queue.put(part)
        if self._free or self._brief:
            self._dispatch_soon()
        if parts[0].prediction.allowed < _EXPIRY_INTERVAL:
            self._loop.call_later(parts[0].prediction.over - monotonic() + _TIMER, self._expire_now)

    def check_hope(self, began: float, deadline: float) -> None:
        """Refuse a request of which nothing has been read yet if even one instance would be answered too late.

        Args:
            began: monotonic seconds at which the request was complete.
            deadline: monotonic seconds after which an answer is of no use.

        Raises:
            RequestError: it would.
        """
        if self.queue.rows:
            due = due_of(began, deadline)
            self._check_time(1, due, deadline - began)
            self._hopeful = due

    def look(self) -> None:
        """Take note of the load."""
        self._meter.look(self._in_hand)

    def take_load(self, now: float) -> Load:
        """The load since the last time."""
        return self._meter.take(now, self._in_hand)

    def take_hanging(self, now: float) -> list[Hanging]:
        """The replicas that hang; to be asked every now and then."""
        return self._watch.look((*self._links.values(), *self._leaving), self.model, now)

    def split(self, payload: Payload) -> list[Payload]:
        """Cut instances into slices that fit a batch."""
        return payload.split(self.model.max_batch)

    def expire(self, now: float) -> None:
        """Answer requests whose deadline has passed, waiting or at a replica; give up replicas that have stopped."""
        self._overtake(now)
        if self._second_tries.holding:
            self._try_again(self._second_tries.look(self.model, now))
        for link in (*self._links.values(), *self._leaving):
            over = [part for part in link.parts if part.prediction.over <= now and not part.settled]
            begun = link.begun_parts if over else []
            for part in over:
                self._refuse_late(part, begun=part in begun)
        late = self.queue.expire(now)
        self.queue.put_back([part for part in late if part.prediction.over > now])
        for part in late:
            if part.prediction.over <= now:
                self._refuse_late(part)
        self.queue.forget()
        if self._free and self.queue:
            self._dispatch()  # what was left to a replica that is overdue
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
        self._choice.observe(link, rows, seconds)
        if self._early is not None:
            self._early.answered(link, seconds, monotonic())
        self._brief = self.latency.predict(self.model.max_batch) < BRIEF  # then the next one is sent ahead
        self._measured.answered(link.route.id, rows, seconds)

    @property
    def lone(self) -> bool:
        """Whether nothing waits, and no replica holds anything."""
        return not self.queue and not any(link.batches for link in (*self._links.values(), *self._leaving))

    def answered_here(self, rows: int, seconds: float) -> None:
        """The gateway itself answered a batch; it tells nothing of how long replicas take."""
        self._measured.answered(GATEWAY, rows, seconds)

    def link_lost(self, link: ReplicaLink, parts: list[Part], untouched: list[Part]) -> None:
        """A replica is gone: what it held is tried elsewhere, before everything that waits of the same deadline."""
        self._leaving.discard(link)
        if link in self._free:
            self._free.remove(link)
        if link.stalled:
            untouched = []  # they are tried elsewhere already, as are the others
        again = self._second_tries.sort_out(link.route.id, parts, self.model, monotonic(), elsewhere=link.stalled)
        if self._second_tries.holding:
            self._loop.call_later(VERDICT_PATIENCE + _TIMER, self._judge)
        if parts:
            _log.warning("replica_lost", replica=link.route.id, parts=len(parts), again=len(again))
            self._measured.retried(len(again))
        self._put_back([*again, *untouched], link)
        self._dispatch()
        if self.retired:
            self._leave_if_done()

    def _judge(self) -> None:
        """Nothing has been heard about a dead replica."""
        self._try_again(self._second_tries.look(self.model, monotonic()))

    def _try_again(self, parts: list[Part]) -> None:
        if parts:
            if self._early is not None:
                self._early.bind(parts, monotonic())
            self.queue.put_back(parts)
            self._dispatch()

    def _overtake(self, now: float) -> None:
        """Try what a replica has held for far too long at another one as well; the first answer counts.

        It is given nothing more until it answers, and what it then says is late, not wrong. What it was at goes alone
        from now on: it may be the cause, and must not hold up the others elsewhere as well.
        """
        for link in (*self._links.values(), *self._leaving):
            if link.stalled or not self._watch.has_stalled(link, now):
                continue
            link.stalled = True
            for part in link.begun_parts:
                part.suspect = True
                part.stalls += 1
            parts = [part for part in link.parts if not part.settled and part.stalls < MOST_DEATHS]
            _log.warning("replica_stalled", replica=link.route.id, seconds=round(now - link.began, 3), parts=len(parts))
            self._measured.retried(len(parts))
            self._put_back(parts, link)
            if link.retired:
                link.retire()
            self._dispatch()

    def _put_back(self, parts: list[Part], link: ReplicaLink) -> None:
        """Queue again what a replica held that takes nothing now, and what else waits for it."""
        if self._early is not None:
            if parts:
                self._early.failed(link, monotonic())
            parts = [*parts, *self._early.release(link)]
            self._early.bind(parts, monotonic())
        self.queue.put_back(parts)

    def _choose_binding(self) -> None:
        """Bind requests to replicas as the model says; sharding binds them by itself."""
        policy = self.model.balancing if self.model.sharding is None else "late-binding"
        if policy == (self._early.policy if self._early is not None else "late-binding"):
            return
        waiting = self.queue.expire(float("inf"))
        self._early = EarlyBinding(policy, self._links, self.queue) if policy != "late-binding" else None
        for part in waiting:
            part.shard = None  # any replica takes what was bound by another policy
        self.queue.put_back(waiting)

    @property
    def _in_hand(self) -> int:
        """Parts of requests, waiting or at a replica."""
        return len(self.queue) + sum(len(link.parts) for link in (*self._links.values(), *self._leaving))

    def _begin(self) -> None:
        """A request comes while there is no replica: have one started, or refuse the request."""
        if self.version.error:
            raise RequestError(503, self._unable(), retry_after=_RETRY_AFTER)
        if self.model.elastic and not self._woken:
            self._woken = True
            self._wake()

    def _unable(self) -> str:
        return f"No replica of model {self.model.name!r} can be started: {self.version.error}"

    def _check_room(self, parts: Sequence[Part]) -> None:
        if len(parts) == 1:
            rows, size = parts[0].payload.rows, parts[0].payload.size
        else:
            rows, size = sum(part.payload.rows for part in parts), sum(part.payload.size for part in parts)
        queue, model = self.queue, self.model
        if queue.rows + rows > model.max_queue:
            queue.forget()  # what was given up counts no longer
        if (queue.rows + rows > model.max_queue or queue.size + size > MAX_QUEUE_BYTES) and queue:
            text = f"Model {model.name!r} is busy: {queue.rows} instances wait for {self.connected} replicas."
            raise RequestError(503, text, retry_after=_RETRY_AFTER)
        prediction = parts[0].prediction
        hopeful, self._hopeful = self._hopeful, 0.0
        if rows > 1 or prediction.due != hopeful:  # else it was found hopeful just before it was read
            self._check_time(rows, prediction.due, prediction.allowed)

    def _check_time(self, rows: int, due: float, allowed: float) -> None:
        now = monotonic()
        expected = self._choice.wait(self.queue.rows + rows, self.model.max_batch, allowed, now)
        if expected > 0.0 and now + expected > due:
            text = (
                f"Model {self.model.name!r} is busy: an answer would take {expected:.3g} s, "
                f"and the request allows {allowed:.3g} s."
            )
            raise RequestError(503, text, retry_after=_RETRY_AFTER)

    def _dispatch_soon(self) -> None:
        """At the end of this turn of the loop, so that what has arrived together goes together; it is no wait."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        if not self.queue:
            return
        idle: list[ReplicaLink] = []
        while self._free and self.queue:
            now = monotonic()
            earliest = self.queue.earliest
            if earliest <= now + self._choice.soonest():
                self._shed(now)
                earliest = self.queue.earliest
            link = self._choice.take_free(self._free)
            batch = self._take(link, self._share(link, now), earliest, now)
            if not batch:
                idle.append(link)  # what waits is for other shards, or others are done with it sooner
            elif link.send(batch):
                self._free.append(link)
                if self.queue:
                    self._dispatch_soon()  # answers are written first, and what has come meanwhile is read
                break
        self._free += reversed(idle)
        if self._brief and self.queue and not self.model.container_concurrency:
            self._send_ahead()

    def _share(self, link: ReplicaLink, now: float) -> int:
        """Instances that a free replica takes now; 0 where others are done with them sooner."""
        rows, most = self.queue.rows, self.model.max_batch
        if self._early is not None:
            return most
        if self._shards:
            return min(most, -(-rows // (1 + len(self._free))))
        return self._choice.share(link, self._free, rows, most, batches=self._measured.batches, now=now)

    def _send_ahead(self) -> None:
        """Give replicas that are at a short batch the next one, unless that would be a small one for no gain."""
        now = monotonic()
        for link in self._links.values():
            if link.connected and not link.stalled and link.batches == 1 and 2 * self.queue.rows >= link.rows:
                if self._choice.is_slow(link):
                    continue
                batch = self._take(link, self.model.max_batch, self.queue.earliest, now)
                if batch:
                    link.send(batch)

    def _take(self, link: ReplicaLink, most: int, earliest: float, now: float) -> list[Part]:
        if not most:
            return []
        shards = self._lanes_of(link) if self._shards or self._early is not None else ()
        batch = self.queue.take(self._choice.largest(link, most, earliest - now), shards)
        limit = self.model.container_concurrency
        if limit and len(batch) > limit:
            self.queue.put_back(batch[limit:])
            del batch[limit:]
        queued = self._measured.queued
        for part in batch:
            queued.observe(now - part.prediction.began)
        return batch

    def _lanes_of(self, link: ReplicaLink) -> Container[int]:
        """Lanes of the queue from which a replica takes, beside those for all."""
        if self._early is not None:
            return self._early.lanes(link)
        return self._shards_of(link)

    def _shards_of(self, link: ReplicaLink) -> frozenset[int]:
        """The shards that a replica serves among those that are connected now."""
        there = tuple(sorted(id_ for id_, other in self._links.items() if other.connected and not other.stalled))
        return shards_of(self._shards, there, link.route.id)

    def _shed(self, now: float) -> None:
        """Refuse what can no longer be answered in time, so that the rest can.

        What is expected to be late is still tried where nothing else waits: the expectation may be wrong.
        """
        late = self.queue.expire(now + self._choice.soonest())
        if not self.queue:
            self.queue.put_back([part for part in late if part.deadline > now])
            late = [part for part in late if part.deadline <= now]
        for part in late:
            self._refuse_late(part)

    def _refuse_late(self, part: Part, *, begun: bool = False) -> None:
        """Answer a part that is late: it was begun by a replica, or waited for one."""
        if begun or (part.suspect and not part.deaths):  # the one that it was at has stalled
            text = f"The replica did not answer within {part.prediction.allowed:.3g} s."
            part.prediction.fail(RequestError(504, text))
            return
        text = f"No replica of model {self.model.name!r} was free within {part.prediction.allowed:.3g} s."
        text += describe_held(self._links, monotonic())
        part.prediction.fail(RequestError(503, text, retry_after=_RETRY_AFTER))

    def _expire_now(self) -> None:
        self.expire(monotonic())

    def _retire_link(self, id_: str) -> None:
        link = self._links.pop(id_)
        self._measured.forget(id_)
        if link.connected:
            self._leaving.add(link)
        if link in self._free:
            self._free.remove(link)
        self._choice.forget(link)
        link.retire()
        if self._early is not None:
            self._put_back([], link)

    def _leave_if_done(self) -> None:
        if (
            not self.queue
            and not self._second_tries.holding
            and all(part.settled for link in self._links.values() for part in link.parts)
        ):
            self._left = True
            for id_ in tuple(self._links):
                self._retire_link(id_)
