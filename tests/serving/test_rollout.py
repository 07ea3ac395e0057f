"""What becomes of a canary, by what was observed; and how times are counted for that."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import UserError
from ganglion.serving.rollout import Arm, Canary, Rollout, decide, enter_step
from ganglion.serving.traffic import Traffic, bucket_of, percentile, traffic_from_data, traffic_to_data

counts = st.integers(0, 2000)
rates = st.floats(0, 0.5)
times = st.dictionaries(st.integers(0, 100), st.integers(1, 500), max_size=5)


def arm(requests: int, errors: int = 0, seconds: float = 0.01) -> Arm:
    return Arm(requests=requests, errors=errors, seconds={bucket_of(seconds): requests - errors})


def rollout(trial: Arm, baseline: Arm, canary: Canary | None = None, **fields: float) -> Rollout:
    given = {"step": 0, "since": 0.0, **fields}
    return Rollout(version=2, canary=canary or Canary.stepwise(5), baseline=baseline, trial=trial, **given)  # type: ignore[arg-type]  # numbers


def test_a_good_version_goes_on_step_by_step_and_then_takes_over() -> None:
    canary = Canary.stepwise(5)
    assert canary.steps == (25, 50, 100)
    going = Rollout(version=2, canary=canary)
    assert decide(going, 0.0).what == "wait", "it is loading"
    for step, percent in enumerate((5, 25, 50)):
        going = enter_step(going, step, now=100.0 * step)
        assert going.percent == percent
        assert decide(going, 100.0 * step).what == "wait"
        going = msgspec.structs.replace(going, trial=arm(100), baseline=arm(900))
        assert decide(going, 100.0 * step + 9.9).what == "wait", "a step takes ten seconds"
        assert decide(going, 100.0 * step + 10).what == ("promote" if percent == 50 else "advance")


def test_without_steps_it_stays_where_it_is() -> None:
    assert decide(rollout(arm(10**6), arm(10**6), Canary(percent=10)), 10**6).what == "wait"
    assert decide(rollout(arm(1000), arm(1000), Canary(percent=10, steps=(20,)), step=1), 10**6).what == "wait"


def test_errors_end_it_as_soon_as_the_least_number_of_answers_could_not_make_up_for_them() -> None:
    for errors, what in ((2, "wait"), (3, "roll back")):
        assert decide(rollout(arm(3, errors), arm(0)), 0.0).what == what, "two of a hundred may fail"
    assert decide(rollout(arm(1000, 20), arm(1000)), 0.0).what == "wait"
    decision = decide(rollout(arm(1000, 21), arm(9000, 3)), 0.0)
    assert decision.what == "roll back"
    assert decision.reason == "21 of its 1000 answers were errors, against 3 of the other version's 9000."


def test_errors_that_befall_both_are_not_held_against_it() -> None:
    assert decide(rollout(arm(1000, 500), arm(1000, 490)), 10.0).what == "advance"
    assert decide(rollout(arm(1000, 500), arm(1000, 470)), 10.0).what == "roll back"


def test_slowness_is_judged_once_both_have_answered_enough() -> None:
    slow = arm(99, seconds=1.0)
    assert decide(rollout(slow, arm(10**4)), 100.0).what == "wait"
    assert decide(rollout(arm(100, seconds=1.0), arm(99)), 100.0).what == "wait"
    decision = decide(rollout(arm(100, seconds=1.0), arm(100)), 0.0)
    assert decision.what == "roll back"
    assert "95 percent of its answers took up to 1.0" in decision.reason
    assert decide(rollout(arm(100, seconds=0.02), arm(100)), 10.0).what == "advance", "less than twice and 10 ms"
    few = Arm(requests=1000, seconds={bucket_of(0.01): 960, bucket_of(5.0): 40})
    assert decide(rollout(few, arm(1000)), 10.0).what == "advance", "only what 95 of 100 see counts"


def test_replicas_that_die_end_it() -> None:
    assert decide(rollout(arm(0), arm(0), deaths=1), 0.0).what == "wait"
    assert decide(rollout(arm(0), arm(0), deaths=2), 0.0).what == "roll back"


@given(baseline=counts, rate=rates, trial=counts, more=st.integers(0, 500), seconds=times, now=st.floats(0, 100))
def test_more_errors_never_save_it(
    baseline: int, rate: float, trial: int, more: int, seconds: dict[int, int], now: float
) -> None:
    other = Arm(requests=baseline, errors=int(rate * baseline), seconds=seconds)
    first = rollout(Arm(requests=trial, errors=int(rate * trial), seconds=seconds), other)
    worse = rollout(Arm(requests=trial + more, errors=int(rate * trial) + more, seconds=seconds), other)
    if decide(first, now).what == "roll back":
        assert decide(worse, now).what == "roll back"


@given(requests=counts, rate=st.floats(0, 1), seconds=times, now=st.floats(0, 100))
def test_a_version_that_does_as_the_other_does_is_never_rolled_back(
    requests: int, rate: float, seconds: dict[int, int], now: float
) -> None:
    same = Arm(requests=requests, errors=int(rate * requests), seconds=seconds)
    assert decide(rollout(same, same), now).what != "roll back"


@given(st.lists(st.tuples(counts, counts, times), max_size=5))
def test_what_gateways_report_adds_up(parts: list[tuple[int, int, dict[int, int]]]) -> None:
    whole = Arm()
    for part in parts:
        whole = whole.plus(*part)
    assert whole.requests == sum(part[0] for part in parts)
    assert sum(whole.seconds.values()) == sum(sum(part[2].values()) for part in parts)


@given(st.lists(st.floats(1e-3, 60), min_size=1, max_size=50), st.floats(1, 100))
def test_a_percentile_is_known_to_within_ten_percent(seconds: list[float], percent: float) -> None:
    buckets: dict[int, int] = {}
    for one in seconds:
        buckets[bucket_of(one)] = buckets.get(bucket_of(one), 0) + 1
    exact = np.percentile(seconds, percent, method="inverted_cdf")
    assert exact * 0.999 <= percentile(buckets, percent) <= exact * 1.101


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile({}, 95))


def test_traffic_survives_the_way_to_the_controller() -> None:
    traffic = [Traffic(model="m", version=2, requests=5, errors=1, seconds={3: 2, 40: 2})]
    data = msgspec.msgpack.decode(msgspec.msgpack.encode(traffic_to_data(traffic)))
    assert traffic_from_data(data) == traffic


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"percent": 0}, "more than 0 and less than 100"),
        ({"percent": 100}, "more than 0 and less than 100"),
        ({"percent": 10, "steps": (50, 25)}, "above the one before"),
        ({"percent": 10, "steps": (5,)}, "above the one before"),
        ({"percent": 10, "steps": (50, 101)}, "at most 100"),
        ({"minimum_requests": 0}, "minimum_requests is 0"),
        ({"latency_factor": 0.5}, "latency_factor is 0.5"),
        ({"error_margin": float("nan")}, "error_margin is nan"),
    ],
)
def test_a_canary_that_makes_no_sense_is_refused(fields: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Canary(**fields)  # type: ignore[arg-type]  # numbers and tuples
