"""The backend's end of a keeper: makes or finds the actor, sends orders, passes notices on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ganglion.backends.processes.wire import Notice, StartMember, StopMember, encode
from ganglion.backends.ray.cluster import NAMESPACE, Node
from ganglion.backends.ray.keeper import Keeper
from ganglion.backends.ray.leases import Lease
from ganglion.backends.ray.orders import Order, Warm
from ganglion.core.errors import ControlError, GanglionError
from ganglion.core.resources import Resources
from ganglion.execution.control import FrameReader
from ganglion.execution.member import connect
from ganglion.execution.spec import Numerics

PIECE = 2**20
"""Bytes of a log that are read at once."""

LOOK_INTERVAL = 0.2
"""Seconds between two looks at whether a client that waits for its keeper was closed."""

DIAL = 10.0
"""Seconds within which a keeper has to answer at its address."""

PATIENCE = 10.0
"""Seconds for a keeper to end its members when it is closed."""


def keeper_of_node(node: Node, directory: str) -> Any:
    """Make the keeper of a node, whose members run in `directory`; it dies with this process."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return (
        _actor_class().options(scheduling_strategy=strategy).remote(directory, node.address, own=False, detached=False)
    )


def keeper_of_member(node: Node, lease: Lease, index: int, resources: Resources, name: str, directory: str) -> Any:
    """Make the keeper of one member, in its bundle of the placement group.

    Args:
        node: where that is.
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
            .remote(directory, node.address, own=True, detached=detached)
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
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._orders: list[bytes] = []
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
            self._send(Warm(numerics=numerics, preload=preload))

    def order(self, request: StartMember | StopMember) -> None:
        """Have a member started or stopped, after all that was asked for before.

        Raises:
            ControlError: the keeper is gone.
        """
        if self.lost is not None:
            raise ControlError(f"The Ray actor that runs members is gone: {self.lost}")
        self._send(request)

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
        with self._lock:
            if self._channel is not None:
                with contextlib.suppress(OSError):  # it was lost a moment ago
                    self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End its members, wait until they are gone, and end the actor."""
        self._closing.set()
        with contextlib.suppress(RayError):  # it is gone, or so busy that it has to be ended as it is
            ray.get(self._actor.close.remote(), timeout=PATIENCE)
        self.dismiss()

    def dismiss(self) -> None:
        """End the actor, whose members have ended; returns at once."""
        self.leave()
        ray.kill(self._actor)

    def join(self) -> None:
        """Wait for the following thread, after `leave` or `close`."""
        self._thread.join()

    def _send(self, order: Order) -> None:
        """Send an order, or have it sent once there is a connection; a detached keeper gets all again on the next."""
        frame = encode(order)
        with self._lock:
            if self.detached or self._channel is None:
                self._orders.append(frame)
            if self._channel is not None:
                with contextlib.suppress(OSError):  # the following thread sees the same loss and acts on it
                    self._channel.sendall(frame)

    # the following thread

    def _follow(self) -> None:
        number = 0
        try:
            while not self._closing.is_set():
                try:
                    number = self._listen(number)
                except (OSError, ActorUnavailableError):
                    self._closing.wait(LOOK_INTERVAL)
                    continue
                if not self.detached and not self._closing.is_set():
                    ray.kill(self._actor)  # it ends its members when it sees the same
                    raise RayActorError(error_msg="the connection to it ended")
        except _ClosedError:
            return
        except RayError as error:
            self.lost = _first_line(error)
            if not self._closing.is_set():
                self._lose(self)

    def _listen(self, number: int) -> int:
        """Dial the keeper and pass on its notices from number `number` on; returns their number when it hangs up."""
        endpoint, token, host = self._wait(self._actor.endpoint.remote())
        seen = 0
        with connect(endpoint, DIAL) as channel:
            channel.settimeout(None)
            with self._lock:
                channel.sendall(token + b"".join(self._orders))
                if not self.detached:
                    self._orders.clear()
                self._channel = channel
            if self._closing.is_set():
                raise _ClosedError
            decoder = msgspec.msgpack.Decoder(Notice)
            reader = FrameReader()
            with contextlib.suppress(OSError):  # a reset is an end of file
                while data := channel.recv(65536):
                    for frame in reader.feed(data):
                        seen += 1
                        if seen > number:
                            self._receive(self, host, decoder.decode(frame))
            with self._lock:
                self._channel = None
        return max(seen, number)

    def _wait(self, pending: Any) -> tuple[str, bytes, str]:
        while not self._closing.is_set():
            try:
                found: tuple[str, bytes, str] = ray.get(pending, timeout=LOOK_INTERVAL)
            except GetTimeoutError:
                continue
            return found
        raise _ClosedError


class _ClosedError(GanglionError):
    """The client was closed while it waited."""


def _actor_class() -> Any:
    """The keeper as an actor that Ray never restarts and whose calls it never repeats: our lifecycle decides."""
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
    return ray.remote(**options)(Keeper)


def _first_line(error: BaseException) -> str:
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
