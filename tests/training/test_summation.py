"""What is said of a sum beside its numbers: whether all of them are finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganglion.training.summation import OrderedSum, divide
from ganglion.training.tree import leaves

LARGEST = torch.finfo(torch.float32).max
NUMBERS = st.sampled_from([0.0, 1.0, -2.5, LARGEST, -LARGEST, math.inf, -math.inf, math.nan])


@given(st.lists(NUMBERS, max_size=12), st.integers(1, 5))
def test_a_sum_is_finite_exactly_where_each_number_of_it_is(numbers, block):
    vector = torch.tensor(numbers, dtype=torch.float32)
    assert divide(vector, 1.0, block=block) == all(map(math.isfinite, numbers))


@pytest.mark.parametrize(("worst", "finite"), [(LARGEST / 2, True), (math.inf, False), (math.nan, False)])
def test_large_numbers_are_told_from_infinite_ones_wherever_they_stand(worst, finite):
    for place in (0, 99_999):
        left, right = torch.full((100_000,), LARGEST / 2), torch.zeros(100_000)
        right[place] = worst
        result = torch.empty(100_000)
        assert OrderedSum(leaves(range(2)), 2, torch.float32).into(result, [left, right]) is finite
        assert torch.equal(result, left + right) or math.isnan(worst)
