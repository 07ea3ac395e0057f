"""What several gateways have let in and hold, counted in memory that they share.

Each gateway adds in a column of its own and reads the others', so there is nothing to lock, and a gateway that is
killed or stopped at any moment harms nobody (a grow-only counter: M. Shapiro et al., "A comprehensive study of
convergent and commutative replicated data types", 2011). What two of them let in at the same instant is found in the
sum by both just afterwards: errors do not add up.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ganglion.core.errors import UserError
from ganglion.serving.gateway.token_bucket import TokenBucket

MOST_GATEWAYS = 16
"""Columns."""

MOST_CALLERS = 4096
"""Rows of callers."""

CONNECTIONS = MOST_CALLERS
"""The row in which each gateway says how many connections it holds."""

_PROCESSES, _BEATS = MOST_CALLERS + 1, MOST_CALLERS + 2
"""The rows in which each gateway says which process it is, and that its event loop turns."""

IN_HAND = MOST_CALLERS + 3
"""The row in which each gateway says, once it is told to end, how many connections wait for an answer."""

TALLY_BYTES = 8 * MOST_GATEWAYS * (MOST_CALLERS + 4)
"""Size of the file; pages that nobody counts in take no memory."""


class Tally:
    """The counts of all gateways, as one of them sees them.

    Args:
        descriptor: of a file of `TALLY_BYTES`, of zeros at first.
        column: number of this gateway; nobody else has it.

    Attributes:
        column: as given.
    """

    def __init__(self, descriptor: int, column: int) -> None:
        self._counts = memoryview(mmap.mmap(descriptor, TALLY_BYTES)).cast("Q")
        self.column = column

    def add(self, row: int) -> None:
        """Count one event here; a gateway that was started again goes on from the count of the one before."""
        self._counts[row * MOST_GATEWAYS + self.column] += 1

    def put(self, row: int, value: int) -> None:
        """Say how much there is here."""
        self._counts[row * MOST_GATEWAYS + self.column] = value

    def read(self, row: int) -> list[int]:
        """What each gateway counted or said."""
        first = row * MOST_GATEWAYS
        return self._counts[first : first + MOST_GATEWAYS].tolist()

    def beat(self, process: int, moment: int) -> None:
        """Say that the event loop of this process turns, by a number that it has not said before."""
        self.put(_BEATS, moment)
        self.put(_PROCESSES, process)

    def beats(self) -> dict[int, int]:
        """The last beat of each process; one that has ended may still be there."""
        return {
            process: beat for process, beat in zip(self.read(_PROCESSES), self.read(_BEATS), strict=True) if process
        }

    def forget(self, process: int) -> None:
        """A process has ended: it holds no connections, and nobody has to leave any to it."""
        for column, other in enumerate(self.read(_PROCESSES)):
            if other == process:
                for row in (CONNECTIONS, IN_HAND, _BEATS, _PROCESSES):
                    self._counts[row * MOST_GATEWAYS + column] = 0

    def elsewhere(self, row: int) -> int:
        """Events at the other gateways so far."""
        counts = self.read(row)
        return sum(counts) - counts[self.column]


class Share(NamedTuple):
    """The part of one gateway in the limits of callers.

    Attributes:
        tally: what all gateways have let in.
        rows: of the callers in it, by name.
        column: number of this gateway.
        gateways: how many there are.
    """

    tally: Tally
    rows: Mapping[str, int]
    column: int
    gateways: int

    def of(self, amount: int) -> int:
        """The part of a number that is this gateway's; the parts of all add up to it."""
        return amount // self.gateways + (self.column < amount % self.gateways)


class SharedBucket:
    """A token bucket of which other gateways take as well.

    Args:
        bucket: what is left, as far as is known here.
        tally: where each gateway counts what it takes.
        row: of the bucket.
    """

    def __init__(self, bucket: TokenBucket, tally: Tally, row: int) -> None:
        self._bucket = bucket
        self._tally = tally
        self._row = row
        self._known = tally.elsewhere(row)

    def take(self, now: float) -> float:
        """Take a token; seconds until there is one if there is none, else 0."""
        self.follow(now)
        pause = self._bucket.take(now)
        if pause == 0.0:
            self._tally.add(self._row)
        return pause

    def follow(self, now: float) -> None:
        """Take into account what the others took; often enough, so that it is not mixed up with what came before."""
        elsewhere = self._tally.elsewhere(self._row)
        self._bucket.spend(elsewhere - self._known, now)
        self._known = elsewhere


def assign_rows(names: Iterable[str], before: Mapping[str, int]) -> dict[str, int]:
    """Give each caller a row; who had one keeps it.

    Args:
        names: of callers.
        before: the rows so far.

    Raises:
        UserError: there are too many.
    """
    wanted = list(dict.fromkeys(names))
    if len(wanted) > MOST_CALLERS:
        raise UserError(f"{len(wanted)} callers have limits; several gateways can share those of {MOST_CALLERS}.")
    rows = {name: before[name] for name in wanted if name in before}
    taken = set(rows.values())
    free = (row for row in range(MOST_CALLERS) if row not in taken)
    for name in wanted:
        if name not in rows:
            rows[name] = next(free)
    return rows
