"""An elastic epoch of a peer whose ranks can be played one after the other in one process.

What a rank delivers depends on its number, the number of ranks and the state it was given, so it does not matter that
they do not run at the same time; where a peer's ranks talk to each other, it has to start processes instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from benchmarks.data.peers.program import Phase, Schedule


class Rank(Protocol):
    """One rank in the middle of an epoch."""

    def batches(self) -> Iterator[Sequence[int]]:
        """The rest of the epoch: numbers of records."""

    def state(self) -> Any:
        """What it takes to go on behind the batches that were taken."""


def play(schedule: Schedule, batch: int, open_rank: Callable[[int, int, int, Any], Rank]) -> Iterator[Phase]:
    """Run the schedule.

    Args:
        schedule: ranks and steps.
        batch: records of a global batch.
        open_rank: given the number of ranks, the rank, its batch and its state, opens it. The state is that which the
            rank of the same number saved; a rank that is new gets that of rank 0, as all ranks have done the same
            number of steps. It is `None` at the beginning of the epoch.
    """
    states: list[Any] = []
    for world, steps in schedule:
        phase, saved = Phase(world=world), []
        for number in range(world):
            state = states[number] if number < len(states) else next(iter(states), None)
            rank = open_rank(world, number, max(1, batch // world), state)
            taken = [[int(record) for record in piece] for piece in islice(rank.batches(), steps)]
            phase.batches.append(taken)
            if steps is not None:
                saved.append(rank.state())
            del rank
        states = saved
        yield phase
