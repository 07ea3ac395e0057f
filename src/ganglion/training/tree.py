"""One fixed binary tree over logical workers, along which everything is summed; pure.

The tree depends on the number of logical workers alone. A node covers the logical workers `begin` to `end - 1`; its
left child covers the largest power of two of them that is less than all, its right child the rest. The value of a leaf
is what its logical worker computed, the value of a node is `left + right`. Floating-point addition is commutative but
not associative, so fixing which pairs are added fixes the bits of the root, whoever does the additions.

A process owns a contiguous range of logical workers. Within it lie complete subtrees that need nobody else: the maximal
ones are what it has to offer, O(log V) of them. Both inside a process and between processes the sums are done by one
stack machine: push the parts from left to right, and add the two topmost ones whenever they are siblings (a binary
counter).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple


class Node(NamedTuple):
    """A node of the tree over `logical` logical workers: those from `begin` to `end - 1`."""

    begin: int
    end: int


def are_siblings(left: Node, right: Node, logical: int) -> bool:
    """Whether two nodes have the same parent, `left` being its left child."""
    size = left.end - left.begin
    return (
        left.end == right.begin
        and size & (size - 1) == 0
        and left.begin % (2 * size) == 0
        and right.end == min(left.begin + 2 * size, logical)
    )


def merges(parts: Sequence[Node], logical: int) -> tuple[int, ...]:
    """How often the two topmost values of the stack are added after each part was pushed.

    Args:
        parts: nodes from left to right, each beginning where the one before it ends.
        logical: number of logical workers.
    """
    stack: list[Node] = []
    counts = []
    for part in parts:
        stack.append(part)
        count = 0
        while len(stack) > 1 and are_siblings(stack[-2], stack[-1], logical):
            right, left = stack.pop(), stack.pop()
            stack.append(Node(left.begin, right.end))
            count += 1
        counts.append(count)
    return tuple(counts)


def leaves(span: range) -> tuple[Node, ...]:
    """The leaves of the logical workers in `span`."""
    return tuple(Node(worker, worker + 1) for worker in span)


def subtrees(span: range, logical: int) -> tuple[Node, ...]:
    """The maximal nodes that lie within a contiguous range of logical workers, from left to right."""
    stack: list[Node] = []
    for leaf, count in zip(leaves(span), merges(leaves(span), logical), strict=True):
        stack.append(leaf)
        for _ in range(count):
            right, left = stack.pop(), stack.pop()
            stack.append(Node(left.begin, right.end))
    return tuple(stack)


def depth(parts: Sequence[Node], logical: int) -> int:
    """The largest number of values that are on the stack at a time; for leaves O(log V)."""
    height = highest = 0
    for count in merges(parts, logical):
        height += 1
        highest = max(highest, height)
        height -= count
    return highest


def partition(spans: Sequence[range], logical: int) -> tuple[tuple[Node, ...], ...]:
    """The maximal subtrees of each range of a mapping.

    Raises:
        ValueError: the ranges do not cover the logical workers once and in order.
    """
    if list(chain.from_iterable(spans)) != list(range(logical)):
        raise ValueError(f"The ranges {list(spans)} do not cover {logical} logical workers once and in order.")
    return tuple(subtrees(span, logical) for span in spans)
