"""A group whose processes come and go without changing one bit of the result.

The controller is the only one who says who takes part: it numbers the memberships, and drops a member once its process
is gone, or for as long as it cannot be reached, by the controller or by those who take part (`reaching`). Whoever was
dropped keeps its state, can commit nothing without the others, and is behind them when it returns. From each membership
a *roster* is formed: everyone connects anew, and says how many transactions it has committed.

Why nothing is lost and nothing is done twice: a process commits a transaction when it has heard from all who have a
part in it that theirs is finished, and nobody takes part in the next one before it has committed this one. So the
commits of the members of a roster differ by one at most, and the state after some number of commits is a function of
that number alone. Whoever has the most can therefore give its state to all others, newcomers and those that missed the
last commit alike; a transaction that none of the survivors has committed is repeated from a state that it has not
touched.

A member that joins does not interrupt a transaction: whoever hears of it says so in its next note, and everyone forms
the new roster after that commit.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

import msgspec
import torch

from ganglion.core import faults
from ganglion.core.log import get_logger
from ganglion.execution.member import Member, Peer
from ganglion.training.accelerator import AcceleratorCollective
from ganglion.training.assembly import Assembly, Bell
from ganglion.training.collective import Collective, Complete, Divisor, Reduced, Single
from ganglion.training.departure import LeftAloneError
from ganglion.training.group import Replica
from ganglion.training.mapping import Balance
from ganglion.training.memory import DeviceSlots, Slots, bytes_of
from ganglion.training.mesh import DisruptedError, Mesh, UnreachableError
from ganglion.training.numerics import Arithmetic
from ganglion.training.reaching import Reaching
from ganglion.training.shared import SharedMemoryCollective
from ganglion.training.stall import StallWatch, pid_behind, place
from ganglion.training.state import pack, room, unpack
from ganglion.training.tcp import TcpCollective
from ganglion.training.vigil import Vigil

RETRY = 1.0
"""Seconds after which a roster that broke is formed again although the controller knows of no change."""

_FADING = 0.99
"""What is left after a step of what slices have taken at most."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What the members of a new roster say of themselves.

    Attributes:
        commits: transactions in its state; -1 for a newcomer.
        arithmetic: how it computes.
        host: names the machine on which its process id is one.
        pid: of its process.
    """

    commits: int
    arithmetic: Arithmetic
    host: str
    pid: int


class _Note(msgspec.Struct, frozen=True, array_like=True):
    """What a process says in a transaction: the membership it has heard of, the seconds it computed, the content."""

    generation: int
    seconds: float
    content: bytes


class ElasticGroup:
    """The processes of an elastic gang.

    Args:
        member: this process.
        slots: its vectors.
        logical: number of logical workers.
        arithmetic: how it computes.

    Attributes:
        rank: as for `Group`, like the next two.
        spans: the present mapping.
        result: of the last reduction.
    """

    def __init__(self, member: Member, slots: Slots | DeviceSlots, *, logical: int, arithmetic: Arithmetic) -> None:
        self.rank = 0
        self.spans: Sequence[range] = ()
        self.result: torch.Tensor = slots[0]
        self._member = member
        self._slots = slots
        self._logical = logical
        self._arithmetic = arithmetic
        self._name = member.name, member.attempt
        self._bell = Bell()
        member.watch(self._bell.ring)
        listener, endpoint = member.listen()
        self._assembly = Assembly(member.name, member.attempt, member.secret, listener)
        self._roster: tuple[Peer, ...] = ()
        self._generation = -1
        self._heard = -1
        self._collective: Collective | None = None
        self._mesh: Mesh | None = None
        self._reaching = Reaching(member.reach)
        self._balance = Balance(1, logical)
        self._pids: dict[tuple[str, int], int] = {}
        self._slowest = 0.0
        self._vigil = Vigil(self._give_up)
        faults.point("training.ready")
        member.ready(endpoint)

    def settle(self, replica: Replica) -> None:
        """Form rosters until one holds and is the newest that any of its members has heard of."""
        while self._collective is None or self._heard > self._generation:
            self._leave()
            roster = self._await_roster()
            began = time.monotonic()
            try:
                self._form(roster, replica)
            except UnreachableError as error:
                self._reaching.failed(roster[error.rank], began)
                self._leave()
            except DisruptedError:
                self._leave()

    def computing(self) -> AbstractContextManager[None]:
        """Watch this process; when it is stuck, the controller ends it, and the others go on."""
        return self._vigil.watch(self._slowest * len(self.spans[self.rank]))

    def overlap(self) -> Complete | None:
        """Begin to reduce."""
        assert self._collective is not None, "settled"
        return self._collective.overlap(self.spans)

    def reduce(self, note: bytes, divisor: Divisor, seconds: float) -> Reduced:
        """Reduce; notes of newer memberships and of speeds go with it."""
        assert self._collective is not None, "settled"
        sent = msgspec.msgpack.encode(_Note(self._newest(), seconds, note))
        reduced = self._collective.reduce(self.spans, sent, lambda notes: divisor([n.content for n in _open(notes)]))
        notes = _open(reduced.notes)
        self._take(notes)
        costs = [note.seconds / len(span) for note, span in zip(notes, self.spans, strict=True) if len(span)]
        self._slowest = max(_FADING * self._slowest, *costs)
        self._balance.observe([note.seconds for note in notes])
        self.spans = self._balance.spans
        return Reduced([note.content for note in notes], reduced.finite)

    def gather(self, value: bytes) -> list[bytes]:
        """Gather; notes of newer memberships go with it."""
        assert self._collective is not None, "settled"
        notes = _open(self._collective.gather(msgspec.msgpack.encode(_Note(self._newest(), 0.0, value))))
        self._take(notes)
        return [note.content for note in notes]

    def disband(self, error: DisruptedError) -> None:
        """Leave the roster; the others see it."""
        get_logger().info("the roster has changed", member=self._member.name, reason=str(error))
        self._leave()

    def release(self, leaving: Sequence[bool]) -> bool:
        """Wait for the membership without them before the next transaction."""
        self._heard = max(self._heard, self._generation + 1)
        return not all(leaving)

    def close(self) -> None:
        """Leave for good."""
        self._leave()
        self._assembly.close()
        self._vigil.close()

    def _give_up(self, reason: str) -> None:
        """Have this process replaced; where it stands goes to its log."""
        get_logger().error("this worker makes no headway", member=self._member.name, reason=reason)
        faulthandler.dump_traceback()
        own = next(peer for peer in self._roster if (peer.member, peer.attempt) == self._name)
        self._member.accuse(own)

    def _leave(self) -> None:
        if self._mesh is not None:
            self._look_at(self._mesh, self._mesh.peers)  # what is known by now counts where a link cannot be made anew
            self._mesh = None
        if self._collective is not None:
            self._collective.close()
            self._collective = None

    def _look_at(self, mesh: Mesh, ranks: Collection[int]) -> None:
        """See whose hosts do not answer."""
        for rank in ranks:
            if silence := mesh.silence(rank):
                self._reaching.silent(self._roster[rank], silence)

    def _watch(self, mesh: Mesh) -> None:
        """Look at those who keep this process waiting."""
        stalls = self._stall_watch()

        def late(ranks: Collection[int]) -> None:
            stalls.late(ranks)
            self._look_at(mesh, ranks)

        mesh.late = late

    def _form(self, roster: tuple[Peer, ...], replica: Replica) -> None:
        self._look_up(roster)
        mesh = self._assembly.form(
            roster,
            self._generation,
            wake=self._bell.descriptor,
            disrupted=self._outdated,
            late=self._stall_watch().late,
        )
        mesh.disrupted = self._disrupted
        self._watch(mesh)
        try:
            self._meet(self._agree(mesh, replica))
            self._watch(mesh)  # who is on this host is known now
            collective = self._connect(mesh)
        except BaseException:
            self._look_at(mesh, mesh.peers)
            mesh.close()
            raise
        self._reaching.met()
        self._mesh, self._collective = mesh, collective
        self.rank, self.result = collective.rank, collective.result
        self._balance = Balance(collective.world, self._logical)
        self.spans = self._balance.spans

    def _await_roster(self) -> tuple[Peer, ...]:
        """Wait for a membership that has not been tried and that this process takes part in."""
        tried = self._generation
        while True:
            self._bell.silence()
            if self._member.draining.is_set():
                raise LeftAloneError(f"{self._member.name} was asked to leave while it waited for others.")
            membership = self._member.membership
            roster = tuple(peer for peer in membership.peers if peer.endpoint)
            if membership.generation >= max(tried + 1, self._heard) and self._is_in(roster):
                break
            inside = self._is_in(roster)
            if not inside:
                self._reaching.left_out(roster)
            if not self._bell.wait(RETRY if inside else self._reaching.pause) and inside and self._heard <= tried:
                return self._roster
        self._roster, self._generation, self._heard = roster, membership.generation, membership.generation
        return roster

    def _is_in(self, roster: Sequence[Peer]) -> bool:
        return any((peer.member, peer.attempt) == self._name for peer in roster)

    def _disrupted(self) -> bool:
        """Whether a member of the roster is not in the newest membership, or was out of it meanwhile."""
        self._bell.silence()
        present = {_stay(peer) for peer in self._member.membership.peers if peer.endpoint}
        return any(_stay(peer) not in present for peer in self._roster)

    def _outdated(self) -> bool:
        """Whether there is a newer membership; those who form a roster have to mean the same one."""
        self._bell.silence()
        return self._member.membership.generation > self._generation

    def _newest(self) -> int:
        """The generation of the newest membership, if other members take part in it than in the roster."""
        membership = self._member.membership
        roster = tuple(peer for peer in membership.peers if peer.endpoint)
        return self._generation if roster == self._roster else membership.generation

    def _take(self, notes: Sequence[_Note]) -> None:
        self._heard = max(note.generation for note in notes)

    def _agree(self, mesh: Mesh, replica: Replica) -> list[Card]:
        """Make everyone's state the newest that there is."""
        mine = Card(commits=replica.commits, arithmetic=self._arithmetic, host=place(), pid=os.getpid())
        cards = [msgspec.msgpack.decode(card, type=Card) for card in mesh.exchange(msgspec.msgpack.encode(mine))]
        for peer, card in zip(self._roster, cards, strict=True):
            self._arithmetic.check(card.arithmetic, peer.member)
        newest, source, behind = newest_state([card.commits for card in cards])
        if cards[source].commits < 0 and mesh.rank == source:
            replica.begin()
        if mesh.rank == source and behind:
            header, tensors = pack(replica.state())
            mesh.send(behind, header)
            mesh.transfer({rank: [bytes_of(tensor) for tensor in tensors] for rank in behind}, {})
        elif mesh.rank in behind:
            header = mesh.receive([source])[source]
            tensors = room(header)
            mesh.transfer({}, {source: [bytes_of(tensor) for tensor in tensors]})
            replica.restore(unpack(header, tensors))
        replica.commits = newest
        return cards

    def _meet(self, cards: Sequence[Card]) -> None:
        """Remember the processes on this host."""
        host = place()
        self._pids = {
            (peer.member, peer.attempt): card.pid
            for peer, card in zip(self._roster, cards, strict=True)
            if card.host == host and card.pid != os.getpid()
        }

    def _look_up(self, roster: Sequence[Peer]) -> None:
        """Find out which processes the others are, so that one which has stopped can be told even before they meet."""
        for peer in roster:
            member = (peer.member, peer.attempt)
            if member not in self._pids and peer.member != self._member.name:
                pid = pid_behind(peer.endpoint)
                if pid is not None and pid != os.getpid():
                    self._pids[member] = pid

    def _stall_watch(self) -> StallWatch:
        """Looks at those of the roster that are known to be on this host."""
        members = [(peer.member, peer.attempt) for peer in self._roster]
        pids = {rank: self._pids[member] for rank, member in enumerate(members) if member in self._pids}
        return StallWatch(pids, lambda rank: self._member.accuse(self._roster[rank]))

    def _connect(self, mesh: Mesh) -> Collective:
        if mesh.world == 1:
            return Single(self._slots)
        if isinstance(self._slots, DeviceSlots):
            return AcceleratorCollective(mesh, self._slots, logical=self._logical)
        kind = SharedMemoryCollective if mesh.one_host else TcpCollective
        return kind(mesh, self._slots, logical=self._logical)


def newest_state(commits: Sequence[int]) -> tuple[int, int, list[int]]:
    """Whose state the members of a roster go on from; pure.

    Args:
        commits: transactions in the state of each, by rank; -1 for a newcomer.

    Returns:
        The transactions in that state, the rank that has it, and the ranks that it is given to.
    """
    source = list(commits).index(max(commits))
    newest = max(commits[source], 0)  # newcomers among themselves: one has drawn the weights for all
    return newest, source, [rank for rank, own in enumerate(commits) if rank != source and own < newest]


def _stay(peer: Peer) -> tuple[str, int, int]:
    """What tells a process that has taken part without a break from one that was away, and from its successor."""
    return peer.member, peer.attempt, peer.entered


def _open(notes: Sequence[bytes]) -> list[_Note]:
    return [msgspec.msgpack.decode(note, type=_Note) for note in notes]
