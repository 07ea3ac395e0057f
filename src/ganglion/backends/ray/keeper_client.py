"""The backend's end of a keeper: makes or finds the actor, sends orders, passes notices on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ganglion.backends.processes.wire import Notice, StartMember, StopMember
from ganglion.backends.ray.cluster import NAMESPACE
from ganglion.backends.ray.keeper import READERS, Keeper
from ganglion.backends.ray.leases import Lease
from ganglion.core.errors import ControlError, GanglionError
from ganglion.core.resources import Resources
from ganglion.execution.spec import Numerics

PIECE = 2**20
"""Bytes of a log that are read at once."""

LOOK_INTERVAL = 0.2
"""Seconds between two looks at whether a client that waits for notices was closed."""

PATIENCE = 10.0
"""Seconds for a keeper to end its members when it is closed."""


def keeper_of_node(node: str, directory: str) -> Any:
    """Make the keeper of a node, whose members run in `directory`; it dies with this process."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return _actor_class().options(scheduling_strategy=strategy).remote(directory, own=False, detached=False)


def keeper_of_member(lease: Lease, index: int, resources: Resources, name: str, directory: str) -> Any:
    """Make the keeper of one member, in its bundle of the placement group.

    Args:
        lease: what is reserved.
        index: which of its bundles is the member's.
        resources: what the member needs.
        name: what `find_keeper` finds it by, if the lease outlives this process.
        directory: where the member runs.

    Raises:
        ControlError: there is one of that name.
    """
    detached = lease.shape.detached
    strategy = PlacementGroupSchedulingStrategy(lease.group, placement_group_bundle_index=index)
    named = {"name": name, "namespace": NAMESPACE, "lifetime": "detached"} if detached else {}
    try:
        return (
            _actor_class()
            .options(scheduling_strategy=strategy, num_gpus=resources.gpu, **named)
            .remote(directory, own=True, detached=detached)
        )
    except ValueError as error:
        raise ControlError(f"An earlier attempt of this member still runs on the cluster ({name}).") from error


def find_keeper(name: str) -> Any | None:
    """The keeper of a member that goes on without its controller, if it still exists."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


class KeeperClient:
    """One keeper, as this process uses it; safe to call from any thread.

    Attributes:
        detached: whether it outlives the process that made it.
        lost: why it is gone, once it is.
    """

    def __init__(
        self,
        actor: Any,
        receive: Callable[[KeeperClient, str, Notice], None],
        lose: Callable[[KeeperClient], None],
        *,
        detached: bool = False,
    ) -> None:
        """Follow what the keeper has to tell.

        Args:
            actor: the keeper.
            detached: whether it outlives the process that made it.
            receive: takes the name of the machine and each notice, in the following thread.
            lose: called once when the keeper is gone without having been closed.
        """
        self.detached = detached
        self.lost: str | None = None
        self._actor = actor
        self._receive = receive
        self._lose = lose
        self._warmed: set[tuple[Numerics, frozenset[str]]] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ganglion-keeper", daemon=True)
        self._thread.start()

    def versions(self, timeout: float) -> tuple[str, str]:
        """Of Python and Ganglion on its node.

        Raises:
            ray.exceptions.RayError: it could not be started.
        """
        found: tuple[str, str] = ray.get(self._actor.versions.remote(), timeout=timeout)
        return found

    def warm(self, numerics: Numerics, preload: tuple[str, ...]) -> None:
        """Have loaded, once, what members to come will need."""
        wanted = numerics, frozenset(preload)
        if wanted not in self._warmed:
            self._warmed.add(wanted)
            self._actor.warm.remote(msgspec.msgpack.encode(numerics), preload)

    def order(self, request: StartMember | StopMember) -> None:
        """Have a member started or stopped, after all that was asked for before.

        Raises:
            ControlError: the keeper is gone.
        """
        if self.lost is not None:
            raise ControlError(f"The Ray actor that runs members is gone: {self.lost}")
        self._actor.order.remote(msgspec.msgpack.encode(request))

    def read(self, path: str) -> Iterator[bytes]:
        """A file on its node, in pieces.

        Raises:
            ControlError: the keeper is gone.
        """
        offset = 0
        try:
            while piece := ray.get(self._actor.read.remote(path, offset, PIECE)):
                yield piece
                offset += len(piece)
        except RayError as error:
            raise ControlError(f"The log cannot be read: {_first_line(error)}") from error

    def leave(self) -> None:
        """Follow it no longer; it goes on."""
        self._closing.set()

    def close(self) -> None:
        """End its members, wait until they are gone, and end the actor."""
        self._closing.set()
        with contextlib.suppress(RayError):  # it is gone, or so busy that it has to be ended as it is
            ray.get(self._actor.close.remote(), timeout=PATIENCE)
        self.dismiss()

    def dismiss(self) -> None:
        """End the actor, whose members have ended; returns at once."""
        self._closing.set()
        ray.kill(self._actor)

    def join(self) -> None:
        """Wait for the following thread, after `leave` or `close`."""
        self._thread.join()

    def _follow(self) -> None:
        number = 0
        while not self._closing.is_set():
            try:
                host, notices = self._wait(self._actor.take.remote(number))
            except _ClosedError:
                return
            except ActorUnavailableError:
                self._closing.wait(LOOK_INTERVAL)
                continue
            except RayError as error:
                self.lost = _first_line(error)
                if not self._closing.is_set():
                    self._lose(self)
                return
            number += len(notices)
            for notice in notices:
                self._receive(self, host, msgspec.msgpack.decode(notice, type=Notice))

    def _wait(self, pending: Any) -> tuple[str, list[bytes]]:
        while not self._closing.is_set():
            try:
                found: tuple[str, list[bytes]] = ray.get(pending, timeout=LOOK_INTERVAL)
            except GetTimeoutError:
                continue
            return found
        raise _ClosedError


class _ClosedError(GanglionError):
    """The client was closed while it waited."""


def _actor_class() -> Any:
    """The keeper as an actor that Ray never restarts and whose calls it never repeats: our lifecycle decides."""
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
    options["concurrency_groups"] = {"readers": READERS}
    return ray.remote(**options)(Keeper)


def _first_line(error: BaseException) -> str:
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
