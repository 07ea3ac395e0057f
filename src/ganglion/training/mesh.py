"""Connections between the processes of one training, each with each.

A mesh belongs to one roster: it is made anew whenever that changes, so nothing that was said in an earlier one can be
taken for something said in this one. The end of a process is an end of file on its link, which the others see at once.
Every wait ends as well when this process learns of a change of the membership from its controller.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice

from ganglion.core.errors import ControlError
from ganglion.execution.member import break_when_dead
from ganglion.training.traffic import Pieces, Traffic, Transfer

_LENGTH = struct.Struct(">I")
_AT_ONCE = 16
"""Pieces that are given to the kernel in one call."""

_ENDED = getattr(select, "POLLRDHUP", 0)
"""That the other side will send nothing more, where the system tells; elsewhere it is told once the link is gone."""

_ASKING = 1
"""Seconds without traffic after which a host is asked whether it is still there, and then again."""

_UNANSWERED = 2
"""Questions that went unanswered one after the other; a single one may have been lost, or be under way."""

_INFORMATION = struct.Struct("8B13I")
"""The beginning of what the kernel tells of a TCP connection (struct tcp_info in linux/tcp.h)."""

LOOK = 100
"""Milliseconds between two looks at those who keep the others waiting."""


class DisruptedError(ControlError):
    """The processes that take part have changed; what they were doing together has to be done again."""


class UnreachableError(DisruptedError):
    """The host of a peer does not answer.

    Attributes:
        rank: of the peer.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


def frame(message: bytes) -> bytes:
    """A message as it goes over a link."""
    return _LENGTH.pack(len(message)) + message


class Link:
    """A stream connection to another process.

    Messages are a four-byte big-endian length and as many bytes; between two messages raw bytes may be agreed upon.

    Args:
        connection: connected and authenticated.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.local = connection.family == socket.AF_UNIX
        if not self.local:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            break_when_dead(connection)
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _ASKING)
        self.connection = connection
        self.descriptors: deque[int] = deque()
        self._arrived = bytearray()

    def read(self) -> None:
        """Take in what has arrived.

        Raises:
            DisruptedError: the other process is gone.
        """
        try:
            if self.local:
                data, descriptors, _, _ = socket.recv_fds(self.connection, 65536, 8)
                self.descriptors.extend(descriptors)
            else:
                data = self.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            raise DisruptedError(f"A link broke: {error}.") from error
        if not data:
            raise DisruptedError("A process has left.")
        self._arrived += data

    def silence(self) -> float:
        """Seconds for which the other host has said nothing although it was asked repeatedly; 0 where it answers.

        Kernels ask and answer, so it does not matter how busy the processes are, or whether they run at all.
        """
        if self.local or not hasattr(socket, "TCP_INFO"):
            return 0.0
        told = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFORMATION.size)
        if len(told) < _INFORMATION.size:
            return 0.0
        fields = _INFORMATION.unpack(told)
        retransmits, probes, data_received, answer_received = fields[2], fields[3], fields[19], fields[20]
        if max(retransmits, probes) < _UNANSWERED:
            return 0.0
        return float(min(data_received, answer_received)) / 1000

    def message(self) -> bytes | None:
        """The next message, if all of it has arrived."""
        if len(self._arrived) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._arrived)[0]
        if len(self._arrived) < end:
            return None
        message = bytes(self._arrived[_LENGTH.size : end])
        del self._arrived[:end]
        return message

    def has_message(self) -> bool:
        """Whether a whole message has arrived."""
        return (
            len(self._arrived) >= _LENGTH.size
            and len(self._arrived) >= _LENGTH.size + _LENGTH.unpack_from(self._arrived)[0]
        )

    def fill(self, pieces: Pieces) -> None:
        """Put raw bytes where they belong: those that have arrived already, and what can be read now.

        Raises:
            DisruptedError: the other process is gone.
        """
        while pieces and self._arrived:
            count = min(len(self._arrived), len(pieces[0]))
            pieces[0][:count] = self._arrived[:count]
            del self._arrived[:count]
            _advance(pieces, count)
        while pieces:
            try:
                count = self.connection.recv_into(pieces[0])
            except BlockingIOError:
                return
            except OSError as error:
                raise DisruptedError(f"A link broke: {error}.") from error
            if count == 0:
                raise DisruptedError("A process has left.")
            _advance(pieces, count)

    def empty(self, pieces: Pieces) -> None:
        """Send as many raw bytes as the other side takes now.

        Raises:
            DisruptedError: the other process is gone.
        """
        while pieces:
            try:
                _advance(pieces, self.connection.sendmsg(list(islice(pieces, _AT_ONCE))))
            except BlockingIOError:
                return
            except OSError as error:
                raise DisruptedError(f"A link broke: {error}.") from error


class Mesh:
    """The links of one process to all others.

    Args:
        rank: of this process in the roster.
        links: by rank, to all others.
        wake: a descriptor that becomes readable when the controller has said something; -1 for none.
        disrupted: the attribute.

    Attributes:
        disrupted: asked when the controller has said something; whether what is going on has to be given up.
        late: called now and then with the ranks that keep this process waiting.
    """

    def __init__(
        self,
        rank: int,
        links: Mapping[int, Link],
        *,
        wake: int = -1,
        disrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rank = rank
        self.world = len(links) + 1
        self.peers = tuple(links)
        self._links = dict(links)
        self._ranks = {link.connection.fileno(): peer for peer, link in links.items()}
        self._wake = wake
        self.disrupted = disrupted
        self.late: Callable[[Collection[int]], None] = lambda _ranks: None
        self._left: set[int] = set()
        self._looked = 0.0
        self._arrivals = select.poll()
        for descriptor in self._ranks:
            self._arrivals.register(descriptor, select.POLLIN)
        if wake >= 0:
            self._arrivals.register(wake, select.POLLIN)

    @property
    def one_host(self) -> bool:
        """Whether no link leaves this host, so that open files can be passed."""
        return all(link.local for link in self._links.values())

    @property
    def address(self) -> str:
        """The address of this host as the others reach it."""
        names = [link.connection.getsockname()[0] for link in self._links.values() if not link.local]
        return str(names[0]) if names else "127.0.0.1"

    def exchange(self, message: bytes) -> list[bytes]:
        """Give every process a message and get one from each; by rank, that of this process among them.

        Raises:
            DisruptedError: somebody is gone, or the membership has changed.
        """
        self.send(self.peers, message)
        got = self.receive(self.peers)
        return [message if rank == self.rank else got[rank] for rank in range(self.world)]

    def send(self, ranks: Collection[int], message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message to some ranks, with open files where they are on this host.

        Raises:
            DisruptedError: somebody is gone, or the membership has changed.
        """
        data = frame(message)
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        rest: dict[int, Pieces] = {}
        for rank in ranks:
            connection = self._links[rank].connection
            try:
                sent = connection.sendmsg([data], files) if files else connection.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise DisruptedError(f"Rank {rank} cannot be reached: {error}.") from error
            if sent < len(data):
                rest[rank] = deque([memoryview(data)[sent:]])
        while rest := {rank: pieces for rank, pieces in rest.items() if pieces}:
            # Reading meanwhile, as the others may be sending as much and read only when they are done.
            poll = self._polling(dict.fromkeys(rest, select.POLLIN | select.POLLOUT))
            for descriptor, events in self._wait(poll, rest):
                link = self._links[self._ranks[descriptor]]
                if events & ~select.POLLOUT:
                    link.read()
                link.empty(rest[self._ranks[descriptor]])

    def receive(self, ranks: Collection[int]) -> dict[int, bytes]:
        """Wait for the next message of each of some ranks.

        Raises:
            DisruptedError: somebody is gone, or the membership has changed.
        """
        missing = {rank for rank in ranks if not self._links[rank].has_message()}
        while missing:
            if missing & self._left:
                raise DisruptedError(f"Rank {min(missing & self._left)} has left.")
            for descriptor, _ in self._wait(self._arrivals, missing):
                rank = self._ranks[descriptor]
                try:
                    self._links[rank].read()
                except DisruptedError:
                    # It may have said all that is waited for and gone on; that is no reason to give up here.
                    self._left.add(rank)
                    self._arrivals.unregister(descriptor)
                if self._links[rank].has_message():
                    missing.discard(rank)
        return {rank: self._links[rank].message() or b"" for rank in ranks}

    def agree(self, word: bool, ranks: Collection[int]) -> bool:
        """Whether all of `ranks` say yes; nobody waits for the others.

        Raises:
            DisruptedError: one of them is gone, or the membership has changed.
        """
        if self.rank not in ranks:
            word = True
        else:
            self.send(self.peers, b"\1" if word else b"\0")
        said = self.receive([rank for rank in ranks if rank != self.rank])
        return word and all(one == b"\1" for one in said.values())

    def look(self) -> None:
        """Look whether everybody is still there, without waiting; for what is waited for elsewhere.

        Raises:
            DisruptedError: somebody is gone, or the membership has changed.
        """
        ended = select.POLLHUP | select.POLLERR | _ENDED
        poll = self._polling(dict.fromkeys(self.peers, _ENDED))
        for descriptor, events in self._heed(poll.poll(0)):
            if events & ended:
                raise DisruptedError(f"Rank {self._ranks[descriptor]} has left.")
        if time.monotonic() - self._looked >= LOOK / 1000:
            self._looked = time.monotonic()
            self.late(self.peers)

    def silence(self, rank: int) -> float:
        """Seconds for which the host of a rank has not answered; 0 where it answers."""
        return self._links[rank].silence()

    def descriptor(self, rank: int) -> int:
        """The next open file that a rank has sent with its messages."""
        return self._links[rank].descriptors.popleft()

    def transfer(
        self, outgoing: Mapping[int, Sequence[memoryview]], incoming: Mapping[int, Sequence[memoryview]]
    ) -> None:
        """Send raw bytes to some ranks and receive some at the same time; both sides know how many.

        Args:
            outgoing: by rank, what is sent, one piece after the other.
            incoming: by rank, where what comes is put.

        Raises:
            DisruptedError: somebody is gone, or the membership has changed.
        """
        self.carry(Transfer(self.peers, outgoing, incoming))

    def carry(self, traffic: Traffic) -> None:
        """Send and receive until it is over.

        Raises:
            DisruptedError: somebody is gone, or the membership has changed.
        """
        for rank in self.peers:
            self._move(traffic, rank)
        while not traffic.over():
            wanted = {
                rank: (select.POLLIN if traffic.incoming[rank] else 0)
                | (select.POLLOUT if traffic.outgoing[rank] else 0)
                for rank in self.peers
            }
            poll = self._polling({rank: events for rank, events in wanted.items() if events})
            if traffic.call >= 0:
                poll.register(traffic.call, select.POLLIN)
            for descriptor, _ in self._wait(poll, traffic.awaited()):
                if descriptor == traffic.call:
                    traffic.called()
                else:
                    self._move(traffic, self._ranks[descriptor])

    def _move(self, traffic: Traffic, rank: int) -> None:
        """Receive and send what can be now."""
        link, incoming = self._links[rank], traffic.incoming[rank]
        while incoming:
            link.fill(incoming)
            if incoming:
                break
            traffic.arrived(rank)
        link.empty(traffic.outgoing[rank])

    def _polling(self, events: Mapping[int, int]) -> select.poll:
        poll = select.poll()
        if self._wake >= 0:
            poll.register(self._wake, select.POLLIN)
        for rank, wanted in events.items():
            poll.register(self._links[rank].connection, wanted)
        return poll

    def _wait(self, poll: select.poll, missing: Collection[int]) -> list[tuple[int, int]]:
        """What is ready among the links, once something is or a look at those who are missing is due."""
        ready = poll.poll(LOOK)
        if not ready:
            self.late(missing)
        return self._heed(ready)

    def _heed(self, ready: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """What is ready but for the controller's word, which is listened to."""
        if any(descriptor == self._wake for descriptor, _ in ready):
            if self.disrupted():
                raise DisruptedError("The membership has changed.")
            ready = [(descriptor, events) for descriptor, events in ready if descriptor != self._wake]
        return ready

    def disconnect(self) -> None:
        """Cut all links, as a network does that fails; whoever waits at one of them learns of it."""
        for link in self._links.values():
            with contextlib.suppress(OSError):  # the other side has been faster
                link.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all links; the others see by it that this process has left the roster."""
        for link in self._links.values():
            for descriptor in link.descriptors:
                os.close(descriptor)
            link.connection.close()


def _advance(pieces: Pieces, count: int) -> None:
    """Take `count` bytes off the front."""
    while count >= len(pieces[0]):
        count -= len(pieces.popleft())
        if not pieces:
            return
    pieces[0] = pieces[0][count:]
