"""How the processes of a roster find and recognise each other.

Each listens where its backend wants it to; of every pair the one that comes later in the roster dials the other. Both
prove that they know the secret of the job, without sending it, and that they mean the same generation of the
membership. Whoever is ahead is waited for, whoever is behind is refused and comes back once its controller has told it.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import select
import socket
from collections.abc import Callable, Collection, Sequence

import msgspec

from ganglion.execution.member import Peer, connect
from ganglion.training.mesh import LOOK, DisruptedError, Link, Mesh, UnreachableError, frame
from ganglion.training.reaching import UNREACHABLE, is_unreachable

_CONNECT_TIMEOUT = 1.0


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """What the one who dials says first."""

    member: str
    attempt: int
    generation: int
    nonce: bytes


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the one who was dialled says: its own challenge, and the proof for the other's."""

    nonce: bytes
    proof: bytes


class _Caller:
    """A connection that is not a link of the roster yet."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.greeting: Greeting | None = None
        self.nonce = secrets.token_bytes(16)
        self.rank: int | None = None


class Assembly:
    """The place of one process among its peers.

    Args:
        name: id of this member.
        attempt: number of its attempt.
        secret: what all members of the job know.
        listener: where it is dialled.
    """

    def __init__(self, name: str, attempt: int, secret: str, listener: socket.socket) -> None:
        self._name = name
        self._attempt = attempt
        self._secret = secret.encode()
        self._listener = listener
        self._listener.setblocking(False)
        self._callers: dict[int, _Caller] = {}

    def form(
        self,
        peers: Sequence[Peer],
        generation: int,
        *,
        wake: int = -1,
        disrupted: Callable[[], bool] = lambda: False,
        late: Callable[[Collection[int]], None] = lambda _ranks: None,
    ) -> Mesh:
        """Connect with all others.

        Args:
            peers: the roster, in order; this process is one of them.
            generation: of the membership that it was taken from.
            wake: as for `Mesh`.
            disrupted: whether this roster is out of date.
            late: called now and then with the ranks that keep this process waiting.

        Raises:
            UnreachableError: the host of somebody does not answer.
            DisruptedError: somebody cannot be reached, or the roster is out of date.
        """
        rank = [peer.member for peer in peers].index(self._name)
        links: dict[int, Link] = {}
        dialled: dict[int, tuple[int, Link, Greeting]] = {}
        try:
            for other in range(rank):
                link, greeting = self._dial(peers[other], other, generation)
                dialled[link.connection.fileno()] = (other, link, greeting)
            while True:
                for descriptor in list(dialled):
                    self._hear_answer(dialled, descriptor, links)
                for descriptor in list(self._callers):
                    self._hear_caller(descriptor, peers, generation, links)
                if len(links) == len(peers) - 1:
                    return Mesh(rank, links, wake=wake, disrupted=disrupted)
                if not self._wait(dialled, wake, disrupted):
                    late({other for other in range(len(peers)) if other != rank and other not in links})
                    for other, link, _ in dialled.values():
                        if link.silence() >= UNREACHABLE:
                            raise UnreachableError(f"{peers[other].member} does not answer.", other)
        except BaseException:
            for link in (*links.values(), *(link for _, link, _ in dialled.values())):
                link.connection.close()
            raise

    def close(self) -> None:
        """Listen no longer."""
        for caller in self._callers.values():
            caller.link.connection.close()
        self._listener.close()

    def _wait(self, dialled: dict[int, tuple[int, Link, Greeting]], wake: int, disrupted: Callable[[], bool]) -> bool:
        """Wait until somebody says something, but not for long, and take it in; whether somebody has."""
        poll = select.poll()
        for descriptor in (self._listener.fileno(), *dialled, *self._callers):
            poll.register(descriptor, select.POLLIN)
        if wake >= 0:
            poll.register(wake, select.POLLIN)
        ready = poll.poll(LOOK)
        for descriptor, _ in ready:
            if descriptor == wake:
                if disrupted():
                    raise DisruptedError("The membership has changed.")
            elif descriptor == self._listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    connection, _ = self._listener.accept()
                    self._callers[connection.fileno()] = _Caller(Link(connection))
            elif descriptor in dialled:
                dialled[descriptor][1].read()
            else:
                try:
                    self._callers[descriptor].link.read()
                except DisruptedError:
                    self._callers.pop(descriptor).link.connection.close()
        return bool(ready)

    def _dial(self, peer: Peer, rank: int, generation: int) -> tuple[Link, Greeting]:
        greeting = Greeting(
            member=self._name, attempt=self._attempt, generation=generation, nonce=secrets.token_bytes(16)
        )
        try:
            connection = connect(peer.endpoint, _CONNECT_TIMEOUT)
            connection.sendall(frame(msgspec.msgpack.encode(greeting)))
        except OSError as error:
            message = f"{peer.member} cannot be reached: {error}."
            raise (UnreachableError(message, rank) if is_unreachable(error) else DisruptedError(message)) from error
        return Link(connection), greeting

    def _hear_answer(
        self, dialled: dict[int, tuple[int, Link, Greeting]], descriptor: int, links: dict[int, Link]
    ) -> None:
        rank, link, greeting = dialled[descriptor]
        message = link.message()
        if message is None:
            return
        answer = msgspec.msgpack.decode(message, type=Answer)
        if not hmac.compare_digest(answer.proof, self._proof(b"dialled", greeting, answer.nonce)):
            raise DisruptedError(f"Rank {rank} does not know the secret of the job.")
        try:
            link.connection.sendall(frame(self._proof(b"dialler", greeting, answer.nonce)))
        except OSError as error:
            raise DisruptedError(f"Rank {rank} cannot be reached: {error}.") from error
        del dialled[descriptor]
        links[rank] = link

    def _hear_caller(self, descriptor: int, peers: Sequence[Peer], generation: int, links: dict[int, Link]) -> None:
        caller = self._callers[descriptor]
        try:
            if caller.greeting is None and (message := caller.link.message()) is not None:
                caller.greeting = msgspec.msgpack.decode(message, type=Greeting)
            if caller.greeting is None or caller.greeting.generation > generation:
                return
            if caller.greeting.generation < generation:
                raise DisruptedError("Somebody who has yet to hear of this roster.")
            if caller.rank is None:
                known = {(peer.member, peer.attempt): rank for rank, peer in enumerate(peers)}
                caller.rank = known.get((caller.greeting.member, caller.greeting.attempt))
                if caller.rank is None:
                    raise DisruptedError("Somebody who is not of this roster.")
                proof = self._proof(b"dialled", caller.greeting, caller.nonce)
                answer = msgspec.msgpack.encode(Answer(nonce=caller.nonce, proof=proof))
                caller.link.connection.sendall(frame(answer))
            if (message := caller.link.message()) is not None:
                if not hmac.compare_digest(message, self._proof(b"dialler", caller.greeting, caller.nonce)):
                    raise DisruptedError("Somebody who does not know the secret of the job.")
                links[caller.rank] = self._callers.pop(descriptor).link
        except (DisruptedError, OSError, msgspec.MsgspecError):
            self._callers.pop(descriptor).link.connection.close()

    def _proof(self, side: bytes, greeting: Greeting, nonce: bytes) -> bytes:
        said = msgspec.msgpack.encode((side, greeting, nonce))
        return hmac.digest(self._secret, said, "sha256")


class Bell:
    """Wakes a waiting process from another of its threads.

    Attributes:
        descriptor: readable once it was rung.
    """

    def __init__(self) -> None:
        self.descriptor, self._end = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._end, False)

    def ring(self) -> None:
        """Wake whoever waits."""
        with contextlib.suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._end, b"\0")

    def silence(self) -> None:
        """Forget how often it was rung."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.descriptor, 4096)) == 4096:
                pass

    def wait(self, seconds: float) -> bool:
        """Wait until it is rung, but not longer than this; whether it was."""
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def close(self) -> None:
        """Nobody waits any more, and nobody rings."""
        os.close(self.descriptor)
        os.close(self._end)
