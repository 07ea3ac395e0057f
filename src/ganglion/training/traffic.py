"""Raw bytes that go over the links between processes at the same time, in both directions."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

Pieces: TypeAlias = "deque[memoryview]"
"""Bytes that are still to be sent, or room for those that are still to come."""


class Traffic(Protocol):
    """What goes over the links for some time, as `Mesh.carry` sees it.

    Attributes:
        outgoing: by rank of all others, what is to be sent now.
        incoming: by rank of all others, room for what comes next.
        call: a descriptor that becomes readable when another thread has something to say; -1 for none.
    """

    outgoing: Mapping[int, Pieces]
    incoming: Mapping[int, Pieces]
    call: int

    def arrived(self, rank: int) -> None:
        """The room for what a rank sends is full; to provide more, if more is to come."""
        ...

    def called(self) -> None:
        """The descriptor has become readable."""
        ...

    def over(self) -> bool:
        """Whether everything was sent and has arrived."""
        ...

    def awaited(self) -> Collection[int]:
        """The ranks that keep this process waiting."""
        ...


class Transfer:
    """Bytes of which both sides know how many there are.

    Args:
        peers: the ranks of all others.
        outgoing: by rank, what is sent, one piece after the other.
        incoming: by rank, where what comes is put.
    """

    call = -1

    def __init__(
        self,
        peers: Collection[int],
        outgoing: Mapping[int, Sequence[memoryview]],
        incoming: Mapping[int, Sequence[memoryview]],
    ) -> None:
        self.outgoing: Mapping[int, Pieces] = {rank: queue(outgoing.get(rank, ())) for rank in peers}
        self.incoming: Mapping[int, Pieces] = {rank: queue(incoming.get(rank, ())) for rank in peers}

    def arrived(self, rank: int) -> None:
        """Nothing more is to come."""

    def called(self) -> None:
        """Nobody calls."""

    def over(self) -> bool:
        """Whether everything was sent and has arrived."""
        return not self.awaited()

    def awaited(self) -> Collection[int]:
        """Those that something is still to come from or to go to."""
        return {rank for rank in self.outgoing if self.outgoing[rank] or self.incoming[rank]}


def queue(raws: Sequence[memoryview]) -> Pieces:
    """Pieces that are not empty."""
    return deque(raw for raw in raws if len(raw))
