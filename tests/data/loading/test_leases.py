from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.loading.leases import Speed, lease, step_time

speeds = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(speeds=speeds, more=st.integers(0, 40))
def test_all_logical_workers_are_leased_in_order_and_nobody_is_without(speeds: list[float], more: int) -> None:
    logical = len(speeds) + more
    leases = lease(speeds, logical)
    assert [worker for span in leases for worker in span] == list(range(logical))
    assert all(len(span) for span in leases)


@given(speeds=st.lists(st.floats(0.1, 10), min_size=1, max_size=3), more=st.integers(0, 6))
def test_no_other_division_is_done_earlier(speeds: list[float], more: int) -> None:
    logical = len(speeds) + more
    ours = step_time(lease(speeds, logical), speeds)
    for counts in product(range(1, logical + 1), repeat=len(speeds)):
        if sum(counts) == logical:
            other = max(count / speed for count, speed in zip(counts, speeds, strict=True))
            assert ours <= other * (1 + 1e-12)


def test_noise_moves_nothing_and_a_real_change_does() -> None:
    before = lease([1.0, 1.0], 8)
    assert before == (range(4), range(4, 8))
    assert lease([1.02, 0.99], 8, before) == before
    assert lease([1.0, 3.0], 8, before) == (range(2), range(2, 8))
    assert lease([1.0, 1.0, 1.0], 9, before) == lease([1.0, 1.0, 1.0], 9)


@pytest.mark.parametrize("speeds", [[], [1.0, 0.0], [1.0, -2.0], [float("nan")], [float("inf")], [1.0] * 9])
def test_what_cannot_be_divided_is_refused(speeds: list[float]) -> None:
    with pytest.raises(DataError):
        lease(speeds, 8)


def test_a_speed_follows_what_is_measured() -> None:
    speed = Speed()
    assert speed.per_second is None
    for _ in range(50):
        speed = speed.measured(8, 2.0)
    assert speed.per_second == pytest.approx(4.0)
    for _ in range(50):
        speed = speed.measured(8, 1.0)
    assert speed.per_second == pytest.approx(8.0, rel=0.02)
