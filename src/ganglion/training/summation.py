"""Sums of vectors along the tree over logical workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from ganglion.training.collective import is_finite
from ganglion.training.mapping import adders
from ganglion.training.tree import Node, merges

_BLOCK = 65536
"""Numbers that are summed at a time, so that intermediate sums stay in the cache."""

_GRAIN = 16
"""Segments begin at multiples of this many numbers, so that two processes never write to one cache line."""


def segments(length: int, world: int) -> tuple[slice, ...]:
    """Cut a vector into one segment for each process; they differ by at most 16 numbers."""
    grains = -(-length // _GRAIN)
    bounds = [min(length, rank * grains // world * _GRAIN) for rank in range(world + 1)]
    bounds[-1] = length
    return tuple(slice(begin, end) for begin, end in pairwise(bounds))


def shares(length: int, spans: Sequence[range]) -> tuple[slice, ...]:
    """The segment of a vector that each process adds up; empty for those that are no `adders`.

    Args:
        length: of the vector.
        spans: the logical workers of each process, by rank.
    """
    adding = adders(spans)
    given = dict(zip(adding, segments(length, len(adding)), strict=True))
    return tuple(given.get(rank, slice(0, 0)) for rank in range(len(spans)))


class OrderedSum:
    """Adds up vectors in the order of the tree.

    Args:
        parts: the node that each vector belongs to, from left to right; together they are the whole tree.
        logical: number of logical workers.
        dtype: of the vectors.
        device: on which they lie.
        block: how many numbers are summed at a time.
    """

    def __init__(
        self,
        parts: Sequence[Node],
        logical: int,
        dtype: torch.dtype,
        *,
        device: torch.device | str = "cpu",
        block: int = _BLOCK,
    ) -> None:
        self._merges = merges(parts, logical)
        height = 0
        deepest = 1
        for count in self._merges:
            height += 1
            deepest = max(deepest, height)
            height -= count
        if height != 1:
            raise ValueError(f"The parts {list(parts)} are not the whole tree over {logical} logical workers.")
        # The two lowest values of the stack never need room of their own: the root is written to where it is wanted.
        self._scratch = torch.empty((max(0, deepest - 1), block), dtype=dtype, device=device)
        self._block = block

    def into(self, result: torch.Tensor, vectors: Sequence[torch.Tensor], divisor: float = 1.0) -> bool:
        """Write the sum divided by `divisor` to `result`.

        Args:
            result: [length]; none of `vectors`, unless there is only one.
            vectors: [length] each, in the order of the parts; they are not changed.
            divisor: what the sum is divided by.

        Returns:
            Whether all numbers of the result are finite.
        """
        finite = True
        for begin in range(0, len(result), self._block):
            block = slice(begin, begin + self._block)
            target = result[block]
            self._add([vector[block] for vector in vectors], target)
            finite = divide(target, divisor) and finite
        return finite

    def add(self, result: torch.Tensor, vectors: Sequence[torch.Tensor]) -> None:
        """As `into`, where the sum is divided later.

        Args:
            result: [length].
            vectors: [length] each.
        """
        for begin in range(0, len(result), self._block):
            block = slice(begin, begin + self._block)
            self._add([vector[block] for vector in vectors], result[block])

    def _add(self, vectors: Sequence[torch.Tensor], target: torch.Tensor) -> None:
        stack: list[torch.Tensor] = []
        for vector, count in zip(vectors, self._merges, strict=True):
            stack.append(vector)
            for _ in range(count):
                right, left = stack.pop(), stack.pop()
                place = target if not stack else self._scratch[len(stack) - 1, : len(target)]
                stack.append(torch.add(left, right, out=place))
        if stack[0] is not target:
            target.copy_(stack[0])


def divide(result: torch.Tensor, divisor: float, *, block: int = _BLOCK) -> bool:
    """Divide a sum in place, block by block.

    Args:
        result: the sum.
        divisor: what it is divided by.
        block: how many numbers at a time.

    Returns:
        Whether all numbers of it are finite.
    """
    finite = True
    for part in torch.split(result, block):
        if divisor != 1.0:
            part.div_(divisor)
        # A sum that is finite has finite terms, and takes a quarter of the time; large ones may add up to infinity.
        finite = (math.isfinite(float(part.sum())) or is_finite(part)) and finite
    return finite
