"""The connection of this process to a Ray cluster; Ray allows one, so the backends of a process share it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any

import msgspec
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # Ray does not annotate it
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from ganglion.backends.ray.leases import Shape
from ganglion.core.errors import ConfigurationError, UserError
from ganglion.core.resources import Resources

NAMESPACE = "ganglion"
"""Of the actors that outlive the process that made them."""

DIAL = 4.0
"""Seconds within which a server has to accept at the address of the cluster, and again to greet."""

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2, which gRPC speaks, says first: the preface and empty settings (RFC 9113, section 3.4)."""

SETTINGS = b"\x04"
"""The type of the frame with which a server of HTTP/2 answers; it stands behind the three bytes of a length."""

ADVICE = "Start one with `ray start --head`, or give the HOST:PORT of one ([execution.ray] address)."

LEAST = 0.0001
"""The smallest amount of a resource that Ray counts; a bundle cannot be empty."""

OBJECT_STORE = 100 * 2**20
"""Bytes of the object store of a Ray that is started here: only control messages pass through Ray."""

LEFT_BEHIND = [".git", ".venv", ".ganglion", "__pycache__"]
"""What does not travel with a working directory."""

WAIT = 3600.0
"""Seconds for which one call waits for a placement group."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the cluster.

    Attributes:
        id: what Ray calls it.
        address: its IP address.
        resources: what it declares.
    """

    id: str
    address: str
    resources: Resources


class Cluster:
    """A connected cluster.

    Attributes:
        address: of its control store; `local` for one that was started here.
        host: IP address of the node on which this process runs; nothing of a local cluster listens to other machines.
    """

    def __init__(self, address: str, host: str) -> None:
        self.address = address
        self.host = host

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are alive."""
        return tuple(
            Node(
                id=node["NodeID"],
                address=self.host if self.address == "local" else node["NodeManagerAddress"],
                resources=Resources(
                    cpu=node["Resources"].get("CPU", 0.0),
                    memory=int(node["Resources"].get("memory", 0)),
                    gpu=node["Resources"].get("GPU", 0.0),
                ),
            )
            for node in _nodes()
            if node["Alive"]
        )


class PlacementGroups:
    """The placement groups that leases are made of; see `leases.Groups`."""

    def create(self, shape: Shape) -> PlacementGroup:
        """Ask for a group whose bundles are on as few nodes as possible."""
        bundles = [_bundle(resources) for resources in shape.bundles]
        group: PlacementGroup = placement_group(
            bundles, strategy="PACK", lifetime="detached" if shape.detached else None
        )
        return group

    def wait(self, group: PlacementGroup) -> tuple[str, ...] | None:
        """Wait; Ray answers for a group that was removed with a bare exception that says so."""
        try:
            while not group.wait(WAIT):
                pass
        except RayError:
            raise
        except Exception as error:
            if "does not exist" not in str(error) and "removed" not in str(error):
                raise
            return None
        nodes = placement_group_table(group)["bundles_to_node_id"]
        return tuple(nodes[index] for index in range(len(nodes)))

    def remove(self, group: PlacementGroup) -> None:
        """Remove it, and whatever Ray runs in it."""
        remove_placement_group(group)


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray does not annotate it
    return found


def _bundle(resources: Resources) -> dict[str, float]:
    amounts = {"CPU": resources.cpu, "memory": float(resources.memory), "GPU": resources.gpu}
    return {name: amount for name, amount in amounts.items() if amount} or {"CPU": LEAST}


_lock = threading.Lock()
_users = 0
_current: tuple[Cluster, tuple[str, str]] | None = None


def connect(address: str, working_dir: str) -> Cluster:
    """Connect this process, or use the connection that it has.

    Args:
        address: `HOST:PORT` of a cluster, `auto` for the one on this machine, `local` to start one that ends with this
            process; empty for what `RAY_ADDRESS` says, else `local`.
        working_dir: a folder that Ray copies to the nodes, for members to run in; empty for none.

    Raises:
        UserError: there is no cluster, or it runs another version of Python or Ray.
    """
    global _users, _current
    address = address or os.environ.get("RAY_ADDRESS", "") or "local"
    with _lock:
        if _current is not None and _current[1] != (address, working_dir):
            raise ConfigurationError(
                f"This process is connected to the Ray cluster {_current[0].address} and cannot use {address} too."
            )
        if _current is None:
            _current = _connect(address, working_dir), (address, working_dir)
        _users += 1
        return _current[0]


def disconnect() -> None:
    """Give up a connection made by `connect`; the last one ends it, and a cluster that was started here."""
    global _users, _current
    with _lock:
        _users -= 1
        if _users == 0:
            _current = None
            ray.shutdown()


def _connect(address: str, working_dir: str) -> Cluster:
    if ray.is_initialized():
        raise ConfigurationError("This process called ray.init itself; let Ganglion connect to the cluster instead.")
    options: dict[str, Any] = {"address": address}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    if working_dir:
        options["runtime_env"] = {"working_dir": working_dir, "excludes": LEFT_BEHIND}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address not in ("local", "auto"):
            _probe(address)
        ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
        raise UserError(f"The Ray cluster {address} cannot be used: {str(error).strip()}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray sets its own, which end the process on the spot
                signal.signal(number, handler)
    if address == "local":
        return Cluster(address, "127.0.0.1")
    here = ray.get_runtime_context().get_node_id()
    return Cluster(address, next(node["NodeManagerAddress"] for node in _nodes() if node["NodeID"] == here))


def _probe(address: str) -> None:
    """Find out soon whether this is a cluster: Ray itself goes on trying for minutes.

    Raises:
        UserError: nobody answers at the address, or somebody else.
        RayError: it speaks gRPC, and not as the control store of a cluster does.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit() or int(port) >= 2**16:
        raise UserError(f"{address!r} is not the address of a Ray cluster. {ADVICE}")
    encrypted = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    try:
        with socket.create_connection((host, int(port)), DIAL) as connection:
            answer = b"" if encrypted else _greet(connection)
    except OSError as error:
        raise UserError(f"No Ray cluster answers at {address}: {error}. {ADVICE}") from error
    if not encrypted and answer[3:4] != SETTINGS:
        said = f"it says {answer!r}" if answer else "it says nothing"
        raise UserError(f"What listens at {address} is no Ray cluster: {said}. {ADVICE}")
    GcsClient(address=address)


def _greet(connection: socket.socket) -> bytes:
    """The first bytes of the answer, enough to recognise it; empty where none comes in time."""
    connection.sendall(GREETING)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while len(answer) < 4 and (piece := connection.recv(32)):
            answer += piece
    return answer
