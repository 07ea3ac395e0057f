from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.dataset.balance import Range, Shard, Shards, divide, moved, rebalance

WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 1.0, 1.0, 2.0, 3.7]), min_size=1, max_size=6)


def records(shards: Shards) -> list[int]:
    return np.concatenate([shard.records() for shard in shards]).tolist()


def check(shards: Shards, count: int, weights: list[float]) -> None:
    """Each record is in one shard, shards have their shares, and ranges are as few as they can be."""
    assert sorted(records(shards)) == list(range(count))
    for shard, weight in zip(shards, weights, strict=True):
        share = count * weight / sum(weights)
        lifted = count >= len(weights)  # so that no shard is empty, others may give a record each
        assert abs(shard.count - share) < 1 + lifted * len(weights) + 1e-6
        assert shard.count >= lifted
        for before, after in zip(shard.ranges, shard.ranges[1:], strict=False):
            assert before.stop < after.start
        assert all(part.start < part.stop for part in shard.ranges)


def least_movement(held: list[int], count: int, weights: list[float]) -> int:
    """By trying every way of rounding shares that leaves no shard empty: records that some worker has to give up."""
    whole = sum(map(Fraction, weights))
    shares = [count * Fraction(weight) / whole for weight in weights]
    possible = [range(floor(share), ceil(share) + 1) for share in shares]
    gone = sum(held[len(weights) :])
    kept = [*held[: len(weights)], *([0] * (len(weights) - len(held)))]
    return gone + min(
        sum(max(0, old - new) for old, new in zip(kept, sizes, strict=True))
        for sizes in product(*possible)
        if sum(sizes) == count
    )


@given(count=st.integers(0, 400), weights=WEIGHTS)
def test_a_dataset_is_divided_by_shares(count: int, weights: list[float]) -> None:
    check(divide(count, weights), count, weights)


@given(count=st.integers(10_000, 10**12), of=st.integers(1, 100))
def test_equal_shards_differ_by_one_record_at_most(count: int, of: int) -> None:
    sizes = [shard.count for shard in divide(count, [1.0] * of)]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def test_no_shard_is_empty_while_there_are_records() -> None:
    assert [shard.count for shard in divide(4, [1000.0, 1, 1, 1])] == [1, 1, 1, 1]
    assert [shard.count for shard in divide(100, [1000.0, 1, 1])] == [98, 1, 1]
    assert sorted(shard.count for shard in divide(2, [1, 1, 1])) == [0, 1, 1]


@given(data=st.data(), first=WEIGHTS, second=WEIGHTS)
def test_after_growth_and_a_change_of_workers_as_little_moves_as_can_be(data, first, second) -> None:
    before_count = data.draw(st.integers(60, 2000))
    count = before_count + data.draw(st.integers(0, 1000))
    before = divide(before_count, first)
    after = rebalance(before, count, second)
    check(after, count, second)
    least = least_movement([shard.count for shard in before], count, second)
    assert least <= moved(before, after) <= 1.05 * least


@given(steps=st.lists(st.tuples(st.integers(0, 500), WEIGHTS), min_size=2, max_size=6))
def test_a_history_of_changes_stays_balanced_and_moves_least_each_time(steps) -> None:
    count = 200
    shards = divide(count, steps[0][1])
    for added, weights in steps:
        count += added
        after = rebalance(shards, count, weights)
        check(after, count, weights)
        assert moved(shards, after) == least_movement([shard.count for shard in shards], count, weights)
        shards = after


def test_growth_with_the_same_workers_moves_nothing() -> None:
    before = divide(1_000_000, [1.0] * 7)
    after = rebalance(before, 1_100_000, [1.0] * 7)
    assert moved(before, after) == 0
    assert max(len(shard.ranges) for shard in after) == 2
    assert max(shard.count for shard in after) - min(shard.count for shard in after) <= 1
    anew = divide(1_100_000, [1.0] * 7)
    assert moved(before, anew) > 250_000  # what it costs not to take care


def test_a_worker_that_is_gone_gives_only_its_own_records() -> None:
    before = divide(700, [1.0] * 7)
    after = rebalance(before, 700, [1.0] * 6)
    assert moved(before, after) == 100
    assert all(set(old.records()) <= set(new.records()) for old, new in zip(before, after, strict=False))


def test_what_cannot_be_divided_is_refused() -> None:
    for weights in ([], [1.0, 0.0], [-1.0], [float("inf")], [float("nan")]):
        with pytest.raises(DataError, match="positive weights"):
            divide(10, weights)
    with pytest.raises(DataError, match="hold 10 records, and 9"):
        rebalance(divide(10, [1.0]), 9, [1.0])


def test_records_of_an_empty_shard() -> None:
    assert Shard().records().tolist() == []
    assert Shard((Range(2, 4), Range(7, 8))).records().tolist() == [2, 3, 7]
