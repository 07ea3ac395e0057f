"""Count, mean, deviation and range of numbers, put together from pieces; pure.

Pieces are merged by the formula of T. Chan, G. Golub and R. LeVeque ("Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", Stanford STAN-CS-79-773, 1979), along a binary tree whose form depends on their number
alone. So errors grow with the logarithm of the number of pieces, and the same pieces give the same bits.
"""

from __future__ import annotations

import math
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt


class Moments(msgspec.Struct, frozen=True):
    """What is known of some numbers.

    Attributes:
        count: how many.
        mean: 0 if there are none.
        squares: sum of the squared distances from the mean.
        minimum: the smallest; 0 if there are none.
        maximum: the largest; 0 if there are none.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: int | float = 0
    maximum: int | float = 0

    @property
    def deviation(self) -> float:
        """Standard deviation (that of the numbers themselves, divided by their count)."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Self:
        """Of finite numbers of any shape."""
        if not values.size:
            return cls()
        exact = np.ascontiguousarray(values, np.float64).reshape(-1)
        mean = float(exact.sum() / exact.size)
        distances = exact - mean
        distances *= distances
        return cls(values.size, mean, float(distances.sum()), values.min().item(), values.max().item())

    def merged(self, other: Moments) -> Moments:
        """Of these numbers and others."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        distance = other.mean - self.mean
        return Moments(
            count,
            self.mean + distance * (other.count / count),
            self.squares + other.squares + distance * distance * (self.count * (other.count / count)),
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


class MomentsTree:
    """Merges moments that come one after the other, neighbours first, in logarithmic memory."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Moments]] = []

    def add(self, moments: Moments) -> None:
        """Take the next piece."""
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            moments = self._waiting.pop()[1].merged(moments)
            level += 1
        self._waiting.append((level, moments))

    def total(self) -> Moments:
        """Of all pieces so far."""
        total = Moments()
        for _, moments in reversed(self._waiting):
            total = moments.merged(total)
        return total
