from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.latency_model import LatencyModel

seconds = st.floats(1e-6, 10.0)


@given(fixed=st.floats(0, 0.1), each=st.floats(1e-5, 0.01), rows=st.lists(st.integers(1, 63), min_size=1, max_size=80))
def test_a_line_is_learnt_exactly(fixed: float, each: float, rows: list[int]) -> None:
    model = LatencyModel()
    for count in [64, *rows]:
        model.observe(count, fixed + each * count)
    for count in (64, rows[-1]):
        assert model.predict(count) == pytest.approx(fixed + each * count, rel=1e-3)


@given(observations=st.lists(st.tuples(st.integers(1, 64), seconds), max_size=60), most=st.integers(1, 64))
def test_whatever_is_observed_times_are_never_negative_and_never_less_for_more(
    observations: list[tuple[int, float]], most: int
) -> None:
    model = LatencyModel()
    for rows, took in observations:
        model.observe(rows, took)
    times = [model.predict(rows) for rows in range(1, 65)]
    assert all(time >= 0.0 for time in times)
    assert times == sorted(times)
    assert model.promise(most) >= model.predict(most)


@given(
    observations=st.lists(st.tuples(st.integers(1, 64), seconds), max_size=60),
    most=st.integers(1, 64),
    left=st.floats(-1.0, 20.0),
)
def test_the_largest_batch_is_promised_in_time_and_one_more_is_not(
    observations: list[tuple[int, float]], most: int, left: float
) -> None:
    model = LatencyModel()
    for rows, took in observations:
        model.observe(rows, took)
    largest = model.largest(most, left)
    assert 1 <= largest <= most
    if largest > 1:
        assert model.promise(largest) <= left * (1 + 1e-9) + 1e-9
    if largest < most and model.promise(1) <= left:
        assert model.promise(largest + 1) > left * (1 - 1e-9) - 1e-9


@given(fixed=st.floats(0, 0.1), each=st.floats(1e-5, 0.01), most=st.integers(1, 64))
def test_more_than_is_worthwhile_answers_hardly_more_a_second(fixed: float, each: float, most: int) -> None:
    model = LatencyModel()
    for rows in (1, 64) * 5:
        model.observe(rows, fixed + each * rows)
    enough = model.worthwhile(most)
    assert 1 <= enough <= most
    assert (enough + 1) / model.predict(enough + 1) >= 0.85 * most / model.predict(most)
    if enough > 1:
        assert model.predict(0) > 0.09 * model.predict(enough - 1), "a smaller one would answer fewer"


def test_before_anything_is_known_every_batch_is_free() -> None:
    model = LatencyModel()
    assert not model.observed
    assert (model.promise(32), model.largest(32, 0.0)) == (0.0, 32)


def test_one_stopped_replica_does_not_make_the_model_believe_in_seconds() -> None:
    model = LatencyModel()
    for _ in range(50):
        model.observe(1, 0.001)
        model.observe(32, 0.004)
    model.observe(32, 20.0)
    assert model.promise(32) < 0.05
    for _ in range(200):
        model.observe(32, 0.004)
        model.observe(1, 0.001)
    assert model.predict(32) == pytest.approx(0.004, rel=0.1)


def test_a_model_that_got_slower_is_believed_soon() -> None:
    model = LatencyModel()
    for _ in range(200):
        model.observe(8, 0.001)
    for _ in range(200):
        model.observe(8, 0.005)
    assert model.predict(8) == pytest.approx(0.005, rel=0.05)
