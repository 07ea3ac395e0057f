"""The order of sums, for every mapping of logical workers to processes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.training.tree import Node, are_siblings, depth, leaves, merges, partition, subtrees


def root(values, begin, end):
    """The tree as its definition says it, by recursion."""
    if end - begin == 1:
        return values[begin]
    half = 1 << ((end - begin - 1).bit_length() - 1)
    return root(values, begin, begin + half) + root(values, begin + half, end)


def stack_sum(parts, values, logical):
    stack = []
    for value, count in zip(values, merges(parts, logical), strict=True):
        stack.append(value)
        for _ in range(count):
            right, left = stack.pop(), stack.pop()
            stack.append(left + right)
    return stack


@st.composite
def mappings(draw):
    """Some logical workers in contiguous ranges, uneven and empty ones among them."""
    logical = draw(st.integers(1, 40))
    cuts = sorted(draw(st.lists(st.integers(0, logical), max_size=9)))
    bounds = [0, *cuts, logical]
    return logical, [range(a, b) for a, b in itertools.pairwise(bounds)]


@given(mappings(), st.integers(0, 2**32 - 1))
def test_every_mapping_gives_the_bits_of_the_definition(mapping, seed):
    logical, spans = mapping
    random = np.random.default_rng(seed)
    values = (random.standard_normal((logical, 3)) * 10.0 ** random.integers(-6, 7, (logical, 1))).astype(np.float32)
    offered, parts = [], []
    for span, nodes in zip(spans, partition(spans, logical), strict=True):
        offered += stack_sum(leaves(span), list(values[span.start : span.stop]), logical)
        parts += nodes
    assert len(offered) == len(parts)
    (total,) = stack_sum(parts, offered, logical)
    assert total.tobytes() == root(values, 0, logical).tobytes()


@given(mappings())
def test_a_process_holds_few_buffers(mapping):
    logical, spans = mapping
    for span in spans:
        assert depth(leaves(span), logical) <= 2 * math.log2(max(2, len(span))) + 1
        assert len(subtrees(span, logical)) <= 2 * math.log2(max(2, len(span))) + 1
        assert sum(node.end - node.begin for node in subtrees(span, logical)) == len(span)


@given(st.integers(1, 64))
def test_one_logical_worker_for_each_process_costs_one_buffer(logical):
    for nodes in partition([range(v, v + 1) for v in range(logical)], logical):
        assert len(nodes) == depth(nodes, logical) == 1


def test_the_order_matters_so_that_the_tests_above_could_fail():
    values = np.array([1e8, 1.0, -1e8, 1.0], dtype=np.float32)
    assert root(values, 0, 4) != (values[0] + values[2]) + (values[1] + values[3])


@pytest.mark.parametrize(
    ("left", "right", "logical", "related"),
    [
        ((0, 1), (1, 2), 8, True),
        ((1, 2), (2, 3), 8, False),
        ((0, 4), (4, 5), 5, True),
        ((0, 4), (4, 5), 6, False),
        ((4, 5), (5, 6), 6, True),
        ((4, 6), (6, 7), 7, True),
        ((0, 2), (2, 3), 8, False),
    ],
)
def test_who_is_added_to_whom(left, right, logical, related):
    assert are_siblings(Node(*left), Node(*right), logical) is related


def test_a_mapping_with_a_hole_is_refused():
    with pytest.raises(ValueError, match="cover 4 logical workers once"):
        partition([range(1), range(2, 4)], 4)
