from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.blocked_order import BlockedOrder, expected_mixing, mixing
from ganglion.data.order import Order


@given(
    count=st.integers(1, 700),
    block=st.integers(1, 100),
    window=st.integers(0, 300),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**40),
)
def test_every_record_has_one_position_and_the_inverse_finds_it(count, block, window, seed, epoch) -> None:
    order = BlockedOrder(count, seed, block, 0 if window < block else window)
    positions = np.arange(count)
    records = order.at(epoch, positions)
    assert sorted(records.tolist()) == list(range(count))
    assert (order.inverse(epoch, records) == positions).all()
    single = int(positions[count // 2])
    assert order.at(epoch, np.array(single)) == records[single]


@given(count=st.integers(2**40, 2**62), block=st.integers(1, 2**20), data=st.data())
def test_the_inverse_finds_positions_of_huge_data(count, block, data) -> None:
    order = BlockedOrder(count, 3, block)
    positions = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20)))
    records = order.at(9, positions)
    assert 0 <= records.min() <= records.max() < count
    assert (order.inverse(9, records) == positions).all()


def test_a_window_has_whole_blocks_and_no_block_is_in_two_windows() -> None:
    order = BlockedOrder(10_000, 5, block=50, window=400)
    records = order.at(2, np.arange(10_000)).reshape(25, 400)
    blocks = [set((window // 50).tolist()) for window in records]
    assert all(len(of_window) == 8 for of_window in blocks)
    assert len(set.union(*blocks)) == 200
    assert all((np.diff(window) != 1).mean() > 0.9 for window in records), "records of a window are shuffled"


def test_windows_and_epochs_have_unrelated_orders() -> None:
    order = BlockedOrder(6400, 5, block=1, window=64)
    inside = [order.at(epoch, np.arange(6400)).reshape(100, 64) for epoch in range(2)]
    ranks = np.concatenate([window.argsort(axis=1).argsort(axis=1) for window in inside])
    counts = np.bincount(ranks[:, 0], minlength=64)  # which record of its window comes first
    assert counts.max() < 16  # expected: about 3 of 200
    assert len({tuple(row) for row in ranks.tolist()}) == 200


def test_mixing_is_one_for_a_uniform_shuffle_and_next_to_nothing_for_none() -> None:
    assert mixing(Order(60_000, 1), 64, 3) == pytest.approx(1, abs=0.1)
    assert mixing(Order(60_000, shuffle=False), 64) == pytest.approx(1 / 64, rel=0.01)


@pytest.mark.parametrize(("block", "window"), [(64, 4096), (256, 4096), (1024, 8192), (1024, 30_720)])
def test_mixing_of_blocks_is_what_theory_says(block: int, window: int) -> None:
    measured = mixing(BlockedOrder(61_440, 3, block, window), 64, 20)
    assert measured == pytest.approx(expected_mixing(61_440, block, window, 64), rel=0.15)


def test_orders_and_measures_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DataError, match="a window a block"):
        BlockedOrder(100, block=10, window=5)
    with pytest.raises(DataError, match="0 to 99 are possible"):
        BlockedOrder(100, block=10).at(0, np.array([100]))
    with pytest.raises(DataError, match="two batches are needed"):
        mixing(Order(100), 64)


def test_the_order_never_changes_because_runs_depend_on_it() -> None:
    assert BlockedOrder(1000, 7, 10, 100).at(1, np.arange(6)).tolist() == [768, 765, 167, 916, 761, 910]
