"""Who takes part in a training, and what they do together: the seam between the loop and the membership.

A loop does its work in transactions. Before each it calls `settle`; within it calls `reduce` or `gather`, once; when
that returns, it commits. Before that it touches nothing that a repetition would read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec
import torch

from ganglion.core.errors import ControlError
from ganglion.training.collective import Collective, Complete, Divisor, Reduced
from ganglion.training.mapping import assign
from ganglion.training.memory import bytes_of
from ganglion.training.mesh import DisruptedError
from ganglion.training.state import pack, room, unpack


class Replica(Protocol):
    """What a process holds of a training.

    Attributes:
        commits: how many transactions its state contains; -1 for a newcomer.
    """

    commits: int

    def begin(self) -> None:
        """Become what the training begins with, where nobody has a state: a checkpoint, if there is one."""
        ...

    def state(self) -> object:
        """The whole state, for `state.pack`."""
        ...

    def restore(self, state: object) -> None:
        """Take over the state of another process."""
        ...


class Group(Protocol):
    """The processes of a training, as the loop sees them.

    Attributes:
        rank: of this process in the present roster.
        spans: the logical workers of each rank.
        result: where `reduce` leaves the sum.
    """

    rank: int
    spans: Sequence[range]
    result: torch.Tensor

    def settle(self, replica: Replica) -> None:
        """Make sure that the roster is up to date and everyone in it has the newest state.

        Raises:
            ConfigurationError: the processes do not have the same arithmetic.
        """
        ...

    def overlap(self) -> Complete | None:
        """As `Collective.overlap`, with the present mapping."""
        ...

    def reduce(self, note: bytes, divisor: Divisor, seconds: float) -> Reduced:
        """As `Collective.reduce`, with the present mapping.

        Args:
            note: for everyone.
            divisor: what the sum is divided by.
            seconds: that this process computed for its slices.

        Raises:
            DisruptedError: the transaction has to be repeated.
        """
        ...

    def computing(self) -> AbstractContextManager[None]:
        """Within it this process computes its slices; whoever is stuck there is replaced, where that is possible."""
        ...

    def gather(self, value: bytes) -> list[bytes]:
        """As `Collective.gather`.

        Raises:
            DisruptedError: the transaction has to be repeated.
        """
        ...

    def disband(self, error: DisruptedError) -> None:
        """Leave a roster that broke, so that `settle` makes another.

        Raises:
            ControlError: there can be no other.
        """
        ...

    def release(self, leaving: Sequence[bool]) -> bool:
        """Let processes go that have said in the last transaction that they end after it.

        Args:
            leaving: by rank in the present roster.

        Returns:
            Whether the others, if there are any, go on without them. If not, everyone has to end.
        """
        ...

    def close(self) -> None:
        """Leave for good."""
        ...


class FixedGroup:
    """Processes that stay together or fail together, with a mapping that stays as it is.

    Args:
        collective: the processes.
        logical: number of logical workers.
    """

    def __init__(self, collective: Collective, logical: int) -> None:
        self._collective = collective
        self.rank = collective.rank
        self.result = collective.result
        self.spans: Sequence[range] = assign([1.0] * collective.world, logical)

    def settle(self, replica: Replica) -> None:
        """Give everyone the state of rank 0 before the first transaction."""
        if replica.commits >= 0:
            return
        replica.commits = 0
        if self.rank == 0:
            replica.begin()
        if self._collective.world == 1:
            return
        header, tensors = pack(replica.state())
        mine = (header, [bytes_of(tensor) for tensor in tensors]) if self.rank == 0 else None
        first = self.gather(msgspec.msgpack.encode(mine))[0]
        if self.rank != 0:
            header, parts = msgspec.msgpack.decode(first, type=tuple[bytes, list[bytes]])
            received = room(header)
            for tensor, part in zip(received, parts, strict=True):
                bytes_of(tensor)[:] = part
            replica.restore(unpack(header, received))

    def computing(self) -> AbstractContextManager[None]:
        """Nobody can be replaced."""
        return nullcontext()

    def overlap(self) -> Complete | None:
        """Begin to reduce."""
        return self._collective.overlap(self.spans)

    def reduce(self, note: bytes, divisor: Divisor, seconds: float) -> Reduced:
        """Reduce."""
        return self._collective.reduce(self.spans, note, divisor)

    def gather(self, value: bytes) -> list[bytes]:
        """Gather."""
        return self._collective.gather(value)

    def disband(self, error: DisruptedError) -> None:
        """Nobody comes back to such a group."""
        raise ControlError(
            f"Rank {self.rank} of {self._collective.world} cannot go on: another process of the training is gone or "
            f"cannot be reached ({error})."
        ) from error

    def release(self, leaving: Sequence[bool]) -> bool:
        """Nobody can be done without."""
        return False

    def close(self) -> None:
        """Leave."""
        self._collective.close()
