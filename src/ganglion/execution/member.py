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
        attempt: 1 for the first try.
        endpoint: where it takes part, once it has said so with `ready`, its gang is elastic, and it can be reached.
        entered: generation from which on it has taken part without a break.
    """

    member: str
    role: str
    index: int
    rank: int
    address: str
    attempt: int = 1
    endpoint: str = ""
    entered: int = 0


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
        membership: who is in the gang now; `watch` tells of changes.
        secret: known to the members of the job alone; never logged or recorded.
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
        secret: str = "",
    ) -> None:
        self.job = job
        self.name = name
        self.role = role
        self.index = index
        self.attempt = attempt
        self.draining = threading.Event()
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.secret = secret
        self._watchers: list[Callable[[], None]] = []
        self._membership = membership or Membership(
            peers=(Peer(member=name, role=role, index=index, rank=0, address="127.0.0.1:0"),)
        )
        self._send = send or (lambda _kind, _value: None)
        self._listen_at = listen_at

    @property
    def membership(self) -> Membership:
        """Who is in the gang now."""
        return self._membership

    @membership.setter
    def membership(self, membership: Membership) -> None:
        self._membership = membership
        self._wake()

    def ask_to_leave(self) -> None:
        """Set `draining`, and wake those who watch the membership."""
        self.draining.set()
        self._wake()

    def _wake(self) -> None:
        for changed in self._watchers:
            changed()

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each change of the membership, in the thread that learns of it.

        It is also called when this process is asked to leave.
        """
        self._watchers.append(changed)

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

    def accuse(self, peer: Peer) -> None:
        """Say that a peer of an elastic gang has stopped working; the controller ends that attempt and replaces it."""
        self._send("accuse", peer)

    def reach(self, peer: Peer, works: bool) -> None:
        """Say whether the link to a peer of an elastic gang works; where not, the controller leaves one of both out."""
        self._send("reach", (peer, works))

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
        """Say that this replica can take requests, or this member of an elastic gang can take part, at `endpoint`."""
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
    client = _connect_tcp(host, int(port), timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    break_when_dead(client)
    return client


def break_when_dead(connection: socket.socket) -> None:
    """Have the kernel break a connection whose other host has gone without a word, instead of keeping it for hours.

    It asks an idle host every few seconds (tcp(7)); a process that is only slow is answered for by its kernel.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 20_000)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _connect_tcp(host: str, port: int, timeout: float | None) -> socket.socket:
    """An address needs no resolver, which takes a process longer to load than all else that it does to connect."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return socket.create_connection((host, port), timeout)
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        client.connect((host, port))
    except OSError:
        client.close()
        raise
    return client
