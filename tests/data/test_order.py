from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.order import LARGEST, WINDOW, Order, derive_seed

words = st.integers(0, 2**64 - 1)
counts = st.integers(1, LARGEST) | st.integers(0, 62).flatmap(
    lambda power: st.integers(-2, 2).map(lambda near: min(LARGEST, max(1, 2**power + near)))
)


def standard_deviations(observed: np.ndarray, expected: np.ndarray | float) -> float:
    """How far a chi-square statistic is above its mean, in its standard deviations."""
    freedom = observed.size - 1
    return float((((observed - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def test_every_record_has_exactly_one_position_for_every_small_count() -> None:
    for count in range(1, 301):
        order, positions = Order(count, seed=count), np.arange(count)
        for epoch in range(1 if count > 70 else 20):
            records = order.at(epoch, positions)
            assert sorted(records) == list(range(count)), count
            assert (order.inverse(epoch, records) == positions).all(), count


@given(count=st.integers(301, 60_000), seed=words, epoch=words)
@example(count=WINDOW, seed=0, epoch=0)
@example(count=WINDOW + 1, seed=0, epoch=0)
@example(count=59_999, seed=0, epoch=0)
def test_every_record_has_exactly_one_position_for_larger_counts(count: int, seed: int, epoch: int) -> None:
    records = Order(count, seed).at(epoch, np.arange(count))
    assert (np.bincount(records, minlength=count) == 1).all()


@given(count=counts, seed=words, epoch=words, data=st.data())
@example(count=LARGEST, seed=2**64 - 1, epoch=2**64 - 1, data=None)
def test_the_inverse_finds_the_position_of_a_record_for_any_count(count, seed, epoch, data) -> None:
    drawn = [] if data is None else data.draw(st.lists(st.integers(0, count - 1), max_size=50))
    positions = np.array([0, count - 1, *drawn])
    order = Order(count, seed)
    records = order.at(epoch, positions)
    assert records.min() >= 0
    assert records.max() < count
    assert len(set(records.tolist())) == len(set(positions.tolist()))
    assert (order.inverse(epoch, records) == positions).all()
    assert (order.at(epoch, order.inverse(epoch, positions)) == positions).all()


@given(count=counts, seed=words, positions=st.lists(st.integers(0, 2**62), min_size=1, max_size=40))
def test_a_position_is_mapped_the_same_alone_and_among_others(count: int, seed: int, positions: list[int]) -> None:
    order, asked = Order(count, seed), np.array(positions) % count
    together = order.at(0, asked)
    assert together.tolist() == [int(order.at(0, np.array(position))) for position in asked]
    assert (order.at(0, asked.reshape(1, -1)) == together).all()


@pytest.mark.parametrize("count", [1000, 60_000, 65_537, 10**12])
def test_epochs_and_seeds_have_unrelated_orders(count: int) -> None:
    positions = np.arange(1000)
    orders = [Order(count, seed).at(epoch, positions) for seed in (0, 1, 2**63) for epoch in (0, 1, 2**32)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).sum() < 12  # expected: 1 of 1000 where count is 1000


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_order_of_a_few_records_is_equally_likely(count: int) -> None:
    seen = Counter(tuple(Order(count, seed).at(0, np.arange(count)).tolist()) for seed in range(6_000))
    observed = np.array([seen[order] for order in itertools.permutations(range(count))])
    assert abs(standard_deviations(observed, observed.mean())) < 4


@pytest.mark.parametrize("count", [7, 100, 1009, 1025, 60_000])
def test_the_first_position_gets_every_record_equally_often(count: int) -> None:
    bins = min(count, 50)
    first = np.array([Order(count, seed).at(3, np.array([0]))[0] for seed in range(5000)])
    expected = np.bincount(np.arange(count) * bins // count) * (5000 / count)
    assert abs(standard_deviations(np.bincount(first * bins // count, minlength=bins), expected)) < 4


@pytest.mark.parametrize("count", [1009, 60_000, 65_537])
def test_neighbours_are_scattered_evenly(count: int) -> None:
    records = Order(count, seed=5).at(0, np.arange(count))
    gaps = np.diff(records) % count
    expected = np.bincount((np.arange(1, count) - 1) * 40 // count) * 1.0
    assert abs(standard_deviations(np.bincount((gaps - 1) * 40 // count, minlength=40), expected)) < 4


@pytest.mark.parametrize("count", [1009, 60_000, 65_537])
def test_records_move_as_far_as_in_a_uniform_shuffle(count: int) -> None:
    positions = np.arange(count)
    moved = np.abs(Order(count, seed=9).at(0, positions) - positions).mean() / count
    assert moved == pytest.approx(1 / 3, abs=4 * 0.24 / math.sqrt(count))


def test_without_shuffling_records_keep_their_order() -> None:
    order = Order(10, seed=3, shuffle=False)
    assert order.at(4, np.arange(10)).tolist() == list(range(10))
    assert order.inverse(4, np.arange(10)).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Order(0), "0 records"),
        (lambda: Order(LARGEST + 1), "2\\*\\*62"),
        (lambda: Order(5, seed=-1), "seed is -1"),
        (lambda: Order(5, seed=2**64), "seed"),
        (lambda: Order(5).at(-1, np.arange(5)), "epoch is -1"),
        (lambda: Order(5).at(0, np.array([1, 5])), "position from 1 to 5"),
        (lambda: Order(5).inverse(0, np.array([-1])), "record from -1"),
    ],
)
def test_what_is_out_of_range_is_refused(make, names: str) -> None:
    with pytest.raises(DataError, match=names):
        make()


def test_the_formula_never_changes() -> None:
    """Every run ever recorded depends on these values: a change of the formula needs a new name, not new values."""
    first = np.arange(8)
    assert Order(10, 0).at(0, np.arange(10)).tolist() == GOLDEN_TEN
    assert Order(60_000, 1).at(2, first).tolist() == GOLDEN_FASHION
    assert Order(65_537, 2**64 - 1).at(2**64 - 1, first).tolist() == GOLDEN_PRIME
    assert Order(LARGEST, 7).at(0, first).tolist() == GOLDEN_LARGEST
    assert derive_seed(0, "split") == GOLDEN_SEED


GOLDEN_TEN = [9, 4, 1, 0, 2, 5, 6, 7, 8, 3]
GOLDEN_FASHION = [5833, 9733, 15023, 37274, 55114, 402, 43213, 12580]
GOLDEN_PRIME = [29535, 5519, 31113, 31, 47697, 6377, 47448, 47009]
GOLDEN_LARGEST = [
    2824118213528608912,
    69481861913619503,
    3524578917254284203,
    532821482008795479,
    189941587750306188,
    90894941465474887,
    2245125826876318498,
    1857792915334426085,
]
GOLDEN_SEED = 7906249731247057724
