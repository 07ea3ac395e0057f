"""Replicas of different speed, on a clock of the test's own."""

from __future__ import annotations

import heapq
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.replica_choice import Worker, busy_seconds, share, wait

MOST = 8


def learnt(fixed: float, each: float = 0.0) -> LatencyModel:
    model = LatencyModel()
    for _ in range(60):
        for rows in (1, MOST):
            model.observe(rows, fixed + each * rows)
    return model


seconds = st.floats(0.001, 1.0)
workers = st.lists(st.tuples(seconds, st.floats(0.0, 1.0)), min_size=1, max_size=5)


@given(fleet=workers, rows=st.integers(1, 200), more=st.integers(0, 50))
def test_more_that_wait_never_take_less_time(fleet: list[tuple[float, float]], rows: int, more: int) -> None:
    there = [Worker(learnt(fixed), busy) for fixed, busy in fleet]
    assert wait(rows, MOST, there, 10.0) <= wait(rows + more, MOST, there, 10.0) + 1e-9
    assert wait(rows, MOST, there, 10.0) >= min(busy for _fixed, busy in fleet)


def test_waiting_counts_batches_replicas_and_what_is_in_hand() -> None:
    one = Worker(learnt(0.0, 0.01), 0.05)
    assert wait(80, MOST, [one], 10.0) == pytest.approx(0.05 + 80 * 0.01, rel=0.05)
    assert wait(80, MOST, [one, one], 10.0) == pytest.approx(0.05 + 44 * 0.01, rel=0.05)


def test_the_reserve_is_at_most_half_of_what_a_request_may_take() -> None:
    shaky = LatencyModel()
    for number in range(200):
        shaky.observe(1, 0.01 if number % 7 else 0.07)
    assert shaky.margin > 0.03
    patient, hasty = (wait(1, MOST, [Worker(shaky, 0.0)], allowed) for allowed in (10.0, 0.02))
    assert patient == pytest.approx(shaky.predict(1) + shaky.margin)
    assert hasty == pytest.approx(shaky.predict(1) + 0.01)


def test_a_reserve_is_kept_before_anything_was_late() -> None:
    steady = learnt(0.004)
    assert steady.margin < 0.001
    hasty, patient = (wait(1, MOST, [Worker(steady, 0.001)], allowed) for allowed in (0.05, 10.0))
    assert hasty == pytest.approx(0.001 + steady.predict(1) + 0.0125)
    assert patient == pytest.approx(0.001 + steady.predict(1) + 0.02), "a core is lost for as long, whatever is allowed"


def test_what_an_idle_replica_takes_at_once_needs_no_reserve() -> None:
    steady = learnt(0.036)
    assert wait(1, MOST, [Worker(steady, 0.0), Worker(steady, 0.0)], 0.05) < 0.045


@given(fleet=workers, rows=st.integers(1, 100), free=st.integers(1, 5))
def test_the_fastest_always_takes_its_share(fleet: list[tuple[float, float]], rows: int, free: int) -> None:
    there = [Worker(learnt(fixed), busy) for fixed, busy in fleet]
    fastest = min(there, key=lambda worker: worker.latency.predict(1))
    others = [worker for worker in there if worker is not fastest]
    assert share(fastest, others, rows, MOST, free) == min(MOST, -(-rows // free))


def test_a_slow_one_helps_only_where_the_fast_ones_would_take_longer() -> None:
    slow = Worker(learnt(0.1), 0.0)
    fast = Worker(learnt(0.01), 0.01)
    assert share(slow, [fast], 1, MOST, 1) == 0
    assert share(slow, [fast], 10 * MOST, MOST, 1) > 0
    assert share(slow, [Worker(learnt(0.01), 5.0)], 1, MOST, 1) == 1, "the fast one is not to be had for long"


def test_one_that_is_overdue_is_expected_to_take_as_long_again() -> None:
    model = learnt(0.1)
    assert busy_seconds(model, 1, 0.04) == pytest.approx(0.06)
    assert busy_seconds(model, 1, 1.1) == pytest.approx(1.0)


def simulate(rate: float, *, by_turns: bool, requests: int = 6000) -> float:
    """The 99th percentile of latency with two replicas that take 5 ms for a batch and one that takes 50 ms."""
    draw = Random(1)
    times = (0.005, 0.005, 0.05)
    models = [learnt(taken) for taken in times]
    queues: list[list[float]] = [[], [], []]
    busy_until = [0.0] * 3
    moment, events, latencies = 0.0, [], []
    for number in range(requests):
        moment += draw.expovariate(rate)
        events.append((moment, number, "comes", number % 3))
    heapq.heapify(events)

    def begin(now: float, place: int, count: int, number: int) -> None:
        queue = queues[place if by_turns else 0]
        latencies.extend(now + times[place] - came for came in queue[:count])
        del queue[:count]
        busy_until[place] = now + times[place]
        heapq.heappush(events, (busy_until[place], number, "free", place))

    while events:
        now, number, event, place = heapq.heappop(events)
        if event == "comes":
            queues[place if by_turns else 0].append(now)
        for candidate in range(3):
            queue = queues[candidate if by_turns else 0]
            if busy_until[candidate] > now or not queue:
                continue
            others = [
                Worker(models[other], max(0.0, busy_until[other] - now)) for other in range(3) if other != candidate
            ]
            rows = min(len(queue), MOST)
            taken = rows if by_turns else share(Worker(models[candidate], 0.0), others, len(queue), MOST, 1)
            if taken:
                begin(now, candidate, taken, number)
    assert len(latencies) == requests
    return sorted(latencies)[int(0.99 * requests)]


@pytest.mark.parametrize("rate", [40.0, 150.0])
def test_of_three_replicas_one_of_which_is_ten_times_slower_the_p99_is_a_fifth_of_round_robins(rate: float) -> None:
    assert simulate(rate, by_turns=False) <= simulate(rate, by_turns=True) / 5
