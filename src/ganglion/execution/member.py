"""The view that running code has of its own place: rank, peers, readiness, reports, drain.

Entries call `current_member()`. In a process that Ganglion did not start (a debugger, a test) it is a gang of one
whose reports go nowhere.
"""

from __future__ import annotations

import queue
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A member as its peers see it.

    Attributes:
        member: id within the job.
        role: name of its role.
        index: number within the role.
        rank: number within the gang.
        address: `host:port` that this member may bind for its peers; the port was free when it joined.
    """

    member: str
    role: str
    index: int
    rank: int
    address: str


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Who is in the gang.

    Attributes:
        generation: grows by one with every change.
        peers: everyone, in rank order.
    """

    generation: int = 0
    peers: tuple[Peer, ...] = ()


class Member:
    """This process, as its entry sees it.

    Attributes:
        job: id of the job.
        name: id within the job, such as `worker-1`.
        role: name of its role.
        index: number within the role.
        attempt: 1 for the first try.
        membership: who is in the gang now.
        draining: set when the process has been asked to finish what it holds and end.
        messages: what the controller sent to this member, in order.
    """

    def __init__(
        self,
        *,
        job: str = "inline",
        name: str = "task-0",
        role: str = "task",
        index: int = 0,
        attempt: int = 1,
        membership: Membership | None = None,
        send: Callable[[str, Any], None] | None = None,
        listen_at: str = "",
    ) -> None:
        self.job = job
        self.name = name
        self.role = role
        self.index = index
        self.attempt = attempt
        self.draining = threading.Event()
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.membership = membership or Membership(
            peers=(Peer(member=name, role=role, index=index, rank=0, address="127.0.0.1:0"),)
        )
        self._send = send or (lambda _kind, _value: None)
        self._listen_at = listen_at

    @property
    def rank(self) -> int:
        """Number of this member among its present peers, from 0."""
        return [peer.member for peer in self.membership.peers].index(self.name)

    @property
    def world_size(self) -> int:
        """Number of members in the gang now."""
        return len(self.membership.peers)

    def report(self, values: Mapping[str, Any]) -> None:
        """Send metrics or progress (plain data) to the controller; returns at once."""
        self._send("report", dict(values))

    def listen(self) -> tuple[socket.socket, str]:
        """Open the stream socket that this member serves on, the way its backend wants it.

        Returns:
            The listening socket and its endpoint, `unix:PATH` or `tcp:HOST:PORT`, to be given to `ready`.
        """
        if self._listen_at.startswith("tcp:"):
            server = socket.create_server((self._listen_at.removeprefix("tcp:"), 0))
            host, port = server.getsockname()[:2]
            return server, f"tcp:{host}:{port}"
        path = self._listen_at.removeprefix("unix:") or str(Path(tempfile.mkdtemp(prefix="ganglion-")) / "member.sock")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(path)
        server.listen(128)
        return server, f"unix:{path}"

    def ready(self, endpoint: str) -> None:
        """Say that this replica can take requests at `endpoint`."""
        self._send("ready", endpoint)


_current: Member | None = None


def current_member() -> Member:
    """The member that this process is; a gang of one outside Ganglion's processes."""
    global _current
    if _current is None:
        _current = Member()
    return _current


def set_current_member(member: Member) -> None:
    """Make `member` what `current_member` returns; called by the agent before the entry."""
    global _current
    _current = member


def connect(endpoint: str, timeout: float | None = None) -> socket.socket:
    """Open a stream connection to an endpoint that a member gave to `ready`."""
    kind, _, rest = endpoint.partition(":")
    if kind == "unix":
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(timeout)
        try:
            client.connect(rest)
        except OSError:
            client.close()
            raise
        return client
    host, _, port = rest.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client
