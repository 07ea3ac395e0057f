from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.serving.autoscaler import Sample, ScaleState, decide, observe
from ganglion.serving.options import ServingOptions

STEP = 0.5
MANY = 1000


def options(**fields: object) -> ServingOptions:
    return ServingOptions(**{"scale_target": 1.0, **fields})  # type: ignore[arg-type]


def run(
    chosen: ServingOptions, loads: Sequence[float], *, current: int = 1, ceiling: int = MANY, room: int = MANY
) -> list[int]:
    """What is wanted after each half second of these loads; replicas are ready at the next look, up to `room`."""
    state, wanted, seen = ScaleState(), current, []
    for number, load in enumerate(loads, 1):
        now = number * STEP
        state = observe(chosen, state, Sample(start=now - STEP, end=now, load=load, requests=int(load > 0)))
        ready = min(wanted, room)
        state, wanted = decide(chosen, state, now=now, ready=ready, current=wanted, ceiling=ceiling)
        seen.append(wanted)
    return seen


def seconds(number: float) -> int:
    return round(number / STEP)


def when(wanted: Sequence[int], condition: Callable[[int], bool]) -> float:
    """The first moment, in seconds, at which so many are wanted."""
    return next(STEP * number for number, count in enumerate(wanted, 1) if condition(count))


def test_five_requests_in_hand_get_five_replicas_in_two_seconds_and_one_again_in_a_minute() -> None:
    wanted = run(options(), [0.0] * seconds(10) + [5.0] * seconds(30) + [0.0] * seconds(70))
    assert 10 < when(wanted, lambda count: count == 5) <= 12
    assert max(wanted) == 5
    assert 40 < when(wanted[seconds(40) :], lambda count: count == 1) + 40 <= 40 + 55
    assert wanted[-1] == 1


def test_the_load_over_the_target_rounded_up_is_wanted() -> None:
    assert run(options(scale_target=100.0), [250.0] * seconds(80))[-1] == 3
    assert run(options(scale_target=100.0), [300.0] * seconds(80))[-1] == 3
    assert run(options(scale_target=100.0), [301.0] * seconds(80))[-1] == 4


def test_the_bounds_and_what_the_machine_holds_are_kept() -> None:
    burst = [50.0] * seconds(20)
    assert run(options(max_replicas=4), burst)[-1] == 4
    assert run(options(max_replicas=4), burst, ceiling=3)[-1] == 3
    assert run(options(min_replicas=2), [0.0] * seconds(200), current=2)[-1] == 2


def test_one_look_wants_at_most_ten_times_what_is_ready() -> None:
    wanted = run(options(), [1000.0] * 4)
    assert wanted[0] == 10
    assert wanted[1] == 100


def test_one_look_keeps_at_least_half_of_what_is_ready() -> None:
    chosen = options(stable_window=STEP, panic_window=STEP, scale_down_delay=0.0)
    wanted = run(chosen, [16.0] * seconds(10) + [0.0] * seconds(10), current=16)
    falls = [count for count in wanted if count < 16]
    assert falls[0] == 8
    assert wanted[-1] == 1


def test_the_last_replica_goes_after_the_window_and_the_grace() -> None:
    chosen = options(min_replicas=0, stable_window=10.0, scale_to_zero_grace=7.0, scale_down_delay=0.0)
    wanted = run(chosen, [1.0] * seconds(20) + [0.0] * seconds(30))
    assert when(wanted, lambda count: count == 0) == 20 + 10 + 7


def test_a_version_that_nobody_ever_asked_goes_after_the_window_and_the_grace_too() -> None:
    chosen = options(min_replicas=0, stable_window=10.0, scale_to_zero_grace=7.0, scale_down_delay=0.0)
    wanted = run(chosen, [0.0] * seconds(30))
    assert 10 + 7 <= when(wanted, lambda count: count == 0) <= 10 + 7 + STEP


def test_rare_requests_keep_the_last_replica() -> None:
    chosen = options(min_replicas=0, stable_window=10.0, scale_to_zero_grace=7.0)
    wanted = run(chosen, ([0.001] + [0.0] * seconds(15)) * 10)
    assert set(wanted) == {1}


def test_from_zero_the_first_request_starts_one() -> None:
    chosen = options(min_replicas=0, scale_target=100.0)
    assert run(chosen, [0.0, 0.0, 0.01], current=0) == [0, 0, 1]


@pytest.mark.parametrize("target", [1.0, 100.0])
def test_a_sudden_load_is_not_forgotten_in_a_lull(target: float) -> None:
    chosen = options(scale_target=target)
    lull = [0.0] * seconds(20)
    wanted = run(chosen, [0.0] * seconds(60) + [8 * target] * seconds(5) + lull)
    assert wanted[-1] == max(wanted) == 8, "panic lasts a stable window"


loads = st.lists(st.floats(0.0, 40.0).map(lambda load: 0.0 if load < 0.01 else load), min_size=1, max_size=120)
choices = st.builds(
    lambda minimum, extra, target, window, part, delay, grace: ServingOptions(
        min_replicas=minimum,
        max_replicas=max(1, minimum + extra),
        scale_target=target,
        stable_window=window,
        panic_window=window * part,
        scale_down_delay=delay,
        scale_to_zero_grace=grace,
    ),
    minimum=st.integers(0, 3),
    extra=st.integers(0, 20),
    target=st.floats(0.5, 20.0),
    window=st.floats(2.0, 30.0),
    part=st.floats(0.05, 1.0),
    delay=st.floats(0.0, 10.0),
    grace=st.floats(0.0, 10.0),
)


@settings(max_examples=50)
@given(choices, loads, st.integers(1, 30), st.integers(0, 30))
def test_bounds_are_kept_whatever_comes(chosen: ServingOptions, given: list[float], ceiling: int, room: int) -> None:
    wanted = run(chosen, given, current=chosen.min_replicas, ceiling=ceiling, room=room)
    highest = max(chosen.min_replicas, min(chosen.max_replicas, ceiling))
    assert all(chosen.min_replicas <= count <= highest for count in wanted)


@settings(max_examples=50)
@given(choices, loads, st.lists(st.floats(0.0, 20.0), min_size=120, max_size=120), st.integers(0, 20))
def test_more_load_never_wants_fewer(chosen: ServingOptions, given: list[float], more: list[float], ready: int) -> None:
    def last(loads: list[float]) -> int:
        state, wanted = ScaleState(), 1
        for number, load in enumerate(loads, 1):
            now = number * STEP
            state = observe(chosen, state, Sample(start=now - STEP, end=now, load=load, requests=1))
            state, wanted = decide(chosen, state, now=now, ready=ready, current=wanted, ceiling=MANY)
        return wanted

    assert last([load + extra for load, extra in zip(given, more, strict=False)]) >= last(given)


@settings(max_examples=50)
@given(choices, loads)
def test_no_flapping(chosen: ServingOptions, given: list[float]) -> None:
    wanted = run(chosen, [*given, *given[::-1]], current=max(1, chosen.min_replicas))
    rises = [number for number in range(1, len(wanted)) if wanted[number] > wanted[number - 1]]
    falls = [number for number in range(1, len(wanted)) if wanted[number] < wanted[number - 1]]
    for fall in falls:
        assert STEP * (fall + 1) >= chosen.stable_window - STEP, "nothing goes before a whole window was observed"
        assert all(STEP * (fall - rise) >= chosen.scale_down_delay - 1e-6 for rise in rises if rise < fall)


@settings(max_examples=50)
@given(choices, loads)
def test_nobody_is_left_without_a_replica_within_the_grace(chosen: ServingOptions, given: list[float]) -> None:
    wanted = run(chosen, given, current=max(1, chosen.min_replicas))
    asked = 0.0
    for number, (load, count) in enumerate(zip(given, wanted, strict=True), 1):
        asked = number * STEP if load > 0 else asked
        if count == 0:
            assert number * STEP - asked >= chosen.stable_window + chosen.scale_to_zero_grace - 1e-6
