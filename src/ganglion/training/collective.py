"""What the processes of one training do together: the seam between a training and its transport.

Every process puts what its logical workers have computed into vectors of its own (`memory.Vectors`), one for each
maximal subtree of its range; `reduce` sums all of them along the tree. A training in one process and one on many hosts
differ in nothing else. A collective lives as long as the roster that it was made for. Where vectors live on an
accelerator, another transport belongs behind the same methods, with the order of the sums of
`summation.OrderedSum`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from ganglion.training.memory import Vectors

Divisor = Callable[[Sequence[bytes]], float]
"""What the sum is divided by, from the notes of all processes."""


Complete = Callable[[int], None]
"""Told from which number on all vectors of this process are complete; of falling numbers, in any thread."""


class Reduced(NamedTuple):
    """What all processes have agreed upon.

    Attributes:
        notes: what each process had to say beside its vectors, by rank.
        finite: whether every number of the result is.
    """

    notes: list[bytes]
    finite: bool


class Collective(Protocol):
    """Operations in which all processes take part, in the same order.

    Attributes:
        rank: of this process, from 0.
        world: number of processes.
        result: where `reduce` leaves the sum, shape [length]; it may be read until the next `overlap` or `reduce`.
    """

    rank: int
    world: int
    result: torch.Tensor

    def overlap(self, spans: Sequence[range]) -> Complete | None:
        """Begin the next `reduce`, which may be this process's next call only, before the vectors are complete.

        Args:
            spans: as for `reduce`.

        Returns:
            What is to be told how much of them is, where that saves time. It need not be told of everything: when
            `reduce` is called, they are complete.
        """
        ...

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Sum the vectors of all processes along the tree.

        When it returns, every process has finished its part of the result.

        Args:
            spans: the logical workers of each process, by rank.
            note: a few bytes for everyone.
            divisor: what the sum is divided by; the same on every process.

        Raises:
            DisruptedError: another process is gone, or the membership has changed; nobody may use the result who has
                not got it from this method.
        """
        ...

    def gather(self, value: bytes) -> list[bytes]:
        """Give every process the bytes of all of them, by rank.

        Raises:
            DisruptedError: as for `reduce`.
        """
        ...

    def close(self) -> None:
        """Leave; the others see it."""
        ...


class Single:
    """A training in one process: the root of the tree is its first vector.

    Args:
        slots: its vectors.
    """

    rank = 0
    world = 1

    def __init__(self, slots: Vectors) -> None:
        self.result = slots[0]

    def overlap(self, spans: Sequence[range]) -> Complete | None:
        """There is nobody to exchange anything with."""
        return None

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Only the division is left to be done."""
        if (by := divisor([note])) != 1.0:
            self.result.div_(by)
        return Reduced([note], is_finite(self.result))

    def gather(self, value: bytes) -> list[bytes]:
        """The value itself."""
        return [value]

    def close(self) -> None:
        """Nothing to leave."""


def is_finite(vector: torch.Tensor) -> bool:
    """Whether every number is finite; in one pass, and the same for a vector as for all of its pieces together."""
    if not vector.numel():
        return True
    lowest, highest = torch.aminmax(vector)
    return math.isfinite(float(lowest)) and math.isfinite(float(highest))
