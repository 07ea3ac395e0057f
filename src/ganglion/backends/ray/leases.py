"""Who holds which part of a Ray cluster, and who waits for it, first come first served.

A lease is a placement group: resources on nodes, all of them or none. Ray tries placement groups in no promised order
and may take a second to see that others are gone, so one at a time is asked for, for the head of our queue; and a
lease that is given back serves the next request of the same shape at once, as Ray does with the workers it leases.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ganglion.core.log import get_logger
from ganglion.core.resources import Resources

IDLE = 1.0
"""Seconds for which a lease that nobody waits for is kept."""

RETRY = 1.0
"""Seconds until a placement group is asked for again after Ray could not be reached."""

Key = tuple[str, str]
"""Job and member."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease consists of.

    Attributes:
        bundles: the resources of each member.
        detached: it outlives the process that asked for it.
    """

    bundles: tuple[Resources, ...]
    detached: bool = False


class Groups(Protocol):
    """Placement groups, as Ray makes them; every method may block."""

    def create(self, shape: Shape) -> Any:
        """Ask for a group."""
        ...

    def wait(self, group: Any) -> tuple[str, ...] | None:
        """Wait until its resources are reserved: the node of each bundle; `None` once the group has been removed."""
        ...

    def remove(self, group: Any) -> None:
        """Give its resources back, or withdraw the request."""
        ...


class Lease:
    """Reserved resources.

    Attributes:
        shape: what it consists of.
        group: the placement group.
        nodes: id of the node of each bundle.
        users: who holds a bundle of it.
    """

    def __init__(self, shape: Shape, group: Any, nodes: tuple[str, ...]) -> None:
        self.shape = shape
        self.group = group
        self.nodes = nodes
        self.users: set[Key] = set()
        self.idle_since = 0.0


class _Request:
    def __init__(self, keys: tuple[Key, ...], shape: Shape, grant: Callable[[], None]) -> None:
        self.keys = keys
        self.shape = shape
        self.grant = grant


class _Ask:
    """The one placement group that Ray is asked for."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.group: Any = None
        self.withdrawn = False


class Leases:
    """The queue and the leases; no method but `close` waits for Ray."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._lock = threading.RLock()
        self._wanted = threading.Condition(self._lock)
        self._queue: deque[_Request] = deque()
        self._held: dict[Key, tuple[Lease, int]] = {}
        self._idle: list[Lease] = []
        self._ask: _Ask | None = None
        self._closed = False
        self._returns: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._obtain, name="ganglion-lease", daemon=True),
            threading.Thread(target=self._return, name="ganglion-return", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, keys: Sequence[Key], shape: Shape, grant: Callable[[], None]) -> None:
        """Join the queue; `grant` is called, from any thread, when a bundle is held for each of `keys`."""
        with self._lock:
            self._queue.append(_Request(tuple(keys), shape, grant))
            grants = self._serve()
        _run(grants)

    def give_back(self, keys: Sequence[Key]) -> None:
        """Free what is held for `keys` and forget what they wait for."""
        with self._lock:
            wanted = set(keys)
            self._queue = deque(request for request in self._queue if not wanted & set(request.keys))
            for key in wanted & self._held.keys():
                lease, _ = self._held.pop(key)
                lease.users.discard(key)
                if not lease.users:
                    self._retire(lease)
            grants = self._serve()
        _run(grants)

    def find(self, key: Key) -> tuple[Lease, int] | None:
        """The lease that is held for `key`, and the number of its bundle."""
        with self._lock:
            return self._held.get(key)

    def close(self) -> None:
        """Give back everything but what outlives this process."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            leases = {id(lease): lease for lease, _ in self._held.values()} | {id(lease): lease for lease in self._idle}
            self._held.clear()
            self._idle.clear()
            for lease in leases.values():
                if not lease.shape.detached:
                    self._returns.put(lease.group)
            self._withdraw()
            self._wanted.notify()
        self._threads[0].join()
        self._returns.put(None)
        self._threads[1].join()

    # with the lock

    def _serve(self) -> list[Callable[[], None]]:
        """Grant what can be granted from the head on, and have the rest asked for; returns what to call then."""
        grants = []
        while self._queue:
            request = self._queue[0]
            if not all(key in self._held for key in request.keys):
                lease = next((lease for lease in self._idle if lease.shape == request.shape), None)
                if lease is None:
                    break
                self._idle.remove(lease)
                lease.users = set(request.keys)
                self._held |= {key: (lease, index) for index, key in enumerate(request.keys)}
            self._queue.popleft()
            grants.append(request.grant)
        if not self._queue:
            self._withdraw()
            return grants
        for lease in self._idle:
            self._returns.put(lease.group)
        self._idle.clear()
        if self._ask is None or self._ask.shape != self._queue[0].shape:
            self._withdraw()
            self._ask = _Ask(self._queue[0].shape)
            self._wanted.notify()
        return grants

    def _withdraw(self) -> None:
        if self._ask is not None:
            self._ask.withdrawn = True
            if self._ask.group is not None:
                self._returns.put(self._ask.group)
            self._ask = None

    def _retire(self, lease: Lease) -> None:
        if lease.shape.detached or self._closed:
            self._returns.put(lease.group)
        else:
            lease.idle_since = time.monotonic()
            self._idle.append(lease)
            self._returns.put(_LOOK)

    # the threads

    def _obtain(self) -> None:
        while True:
            with self._lock:
                self._wanted.wait_for(lambda: self._ask is not None or self._closed)
                ask = self._ask
            if ask is None:
                return
            try:
                self._fetch(ask)
            except Exception:  # noqa: BLE001  # whatever Ray raises: those who wait are served once it is back
                get_logger().error("Ray did not make a placement group", exc_info=True)
                with self._lock:
                    if ask.group is not None and not ask.withdrawn:
                        self._returns.put(ask.group)
                    ask.group = None
                time.sleep(RETRY)

    def _fetch(self, ask: _Ask) -> None:
        group = self._groups.create(ask.shape)
        with self._lock:
            ask.group = group
            if ask.withdrawn:
                self._returns.put(group)
                return
        nodes = self._groups.wait(group)
        with self._lock:
            if ask.withdrawn or nodes is None:
                return
            self._ask = None
            self._idle.append(Lease(ask.shape, group, nodes))
            grants = self._serve()
        _run(grants)

    def _return(self) -> None:
        """Give groups back, also those that have been idle for long enough."""
        while (group := self._next_return()) is not None:
            if group is not _LOOK:
                try:
                    self._groups.remove(group)
                except Exception:  # noqa: BLE001  # the cluster is gone, and the group with it
                    get_logger().warning("a placement group could not be given back", exc_info=True)

    def _next_return(self) -> Any:
        with self._lock:
            now = time.monotonic()
            for lease in [lease for lease in self._idle if now - lease.idle_since >= IDLE]:
                self._idle.remove(lease)
                self._returns.put(lease.group)
            patience = min((lease.idle_since + IDLE - now for lease in self._idle), default=None)
        try:
            return self._returns.get(timeout=patience)
        except queue.Empty:
            return _LOOK


_LOOK = object()
"""In the queue of what to give back: look for leases that have become idle."""


def _run(grants: list[Callable[[], None]]) -> None:
    for grant in grants:
        grant()
