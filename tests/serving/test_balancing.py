from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.balancing import POLICIES, Balancer, BalancingRules, PeakEwma, Policy

AT_ONCE = BalancingRules(slow_start=0.0)
policies = st.sampled_from(POLICIES)
names = st.sets(st.sampled_from("abcdefgh"), min_size=1)


class Asked:
    """Asks a balancer, and counts what each replica has in hand."""

    def __init__(self, balancer: Balancer, there: Iterable[str]) -> None:
        self.balancer = balancer
        self.counts = Counter(dict.fromkeys(there, 0))

    def __call__(self, key: int = 0, now: float = 0.0, *, keep: bool = False) -> str:
        chosen = self.balancer.choose(key, self.counts, now)
        assert chosen is not None
        self.counts[chosen] += keep
        return chosen

    def there(self, names: Iterable[str], now: float) -> None:
        self.balancer.sync(names, now)
        self.counts = Counter({name: self.counts[name] for name in names})


def asked(policy: Policy, there: Iterable[str], rules: BalancingRules = AT_ONCE, seed: int = 0) -> Asked:
    made = Balancer(policy, rules, Random(seed))
    made.sync(there, 0.0)
    return Asked(made, there)


@given(policy=policies, there=names, later=names, keys=st.lists(st.integers(0, 2**32), max_size=50))
def test_only_replicas_that_are_there_are_chosen(
    policy: Policy, there: set[str], later: set[str], keys: list[int]
) -> None:
    ask = asked(policy, there)
    for now, key in enumerate(keys):
        if now == len(keys) // 2:
            ask.there(later, float(now))
        chosen = ask(key, float(now), keep=bool(key % 2))
        assert chosen in (there if now < len(keys) // 2 else later)
        ask.balancer.ended(chosen, float(now), 0.01)


def test_where_there_is_none_none_is_chosen() -> None:
    made = Balancer("round-robin", AT_ONCE)
    assert made.choose(1, {}, 0.0) is None
    made.sync("a", 0.0)
    assert made.choose(1, {}, 0.0) is None, "it is there, and not to be had now"


@given(there=names, rounds=st.integers(1, 10))
def test_round_robin_gives_everybody_the_same(there: set[str], rounds: int) -> None:
    ask = asked("round-robin", there)
    counts = Counter(ask() for _ in range(rounds * len(there)))
    assert counts == dict.fromkeys(there, rounds)


@given(there=names, requests=st.integers(1, 60))
def test_least_outstanding_keeps_what_is_in_hand_even(there: set[str], requests: int) -> None:
    ask = asked("least-outstanding", there)
    for _ in range(requests):
        ask(keep=True)
    assert max(ask.counts.values()) - min(ask.counts.values()) <= 1


@given(there=names, keys=st.lists(st.integers(0, 20), min_size=1, max_size=80))
def test_consistent_hashing_exceeds_no_bound(there: set[str], keys: list[int]) -> None:
    ask = asked("consistent-hash", there)
    for number, key in enumerate(keys, 1):
        chosen = ask(key, keep=True)
        assert ask.counts[chosen] <= -(-1.25 * number // len(there))


@given(there=st.sets(st.sampled_from("abcdefgh"), min_size=2), keys=st.sets(st.integers(), min_size=1, max_size=50))
def test_when_one_goes_only_its_keys_move(there: set[str], keys: set[int]) -> None:
    ask = asked("consistent-hash", there)
    before = {key: ask(key) for key in keys}
    gone = min(there)
    ask.there(there - {gone}, 1.0)
    for key, name in before.items():
        assert ask(key) == name or name == gone
    ask.there(there, 2.0)
    assert {key: ask(key) for key in keys} == before


def test_two_choices_find_the_fast_replicas_and_try_the_slow_one_again() -> None:
    ask = asked("power-of-two", "abc", seed=1)
    counts: Counter[str] = Counter()
    for step in range(3000):
        chosen = ask(now=step / 100)
        ask.balancer.ended(chosen, step / 100, 0.1 if chosen == "a" else 0.01)
        counts[chosen] += 1
    assert 0 < counts["a"] < 0.05 * 3000
    assert min(counts["b"], counts["c"]) > 0.3 * 3000


def test_a_peak_is_believed_at_once_and_forgotten_by_and_by() -> None:
    average = PeakEwma(decay=10.0)
    average.observe(0.01, 0.0)
    average.observe(1.0, 0.1)
    assert average.value(0.1) == 1.0
    average.observe(0.01, 0.2)
    assert average.value(0.2) > 0.9
    average.observe(0.01, 60.0)
    assert average.value(60.0) < 0.02
    assert average.value(90.0) < 0.002


def test_a_new_replica_comes_to_its_share_slowly() -> None:
    ask = asked("round-robin", "ab", BalancingRules(slow_start=10.0))
    ask.there("abc", 100.0)

    def share(now: float) -> float:
        return sum(ask(now=now) == "c" for _ in range(210)) / 210

    shares = [share(100.0 + seconds) for seconds in (0.0, 5.0, 10.0)]
    assert shares == pytest.approx([0.1 / 2.1, 0.5 / 2.5, 1 / 3], abs=0.01)


def test_an_outlier_is_ejected_longer_each_time_and_comes_back() -> None:
    ask = asked("round-robin", "abc", BalancingRules(slow_start=0.0, consecutive_errors=3, ejection_time=10.0))
    made = ask.balancer
    assert [made.ended("a", 0.0, None) for _ in range(3)] == [False, False, True]
    assert {ask(now=5.0) for _ in range(10)} == {"b", "c"}
    assert {ask(now=10.0) for _ in range(10)} == {"a", "b", "c"}
    assert [made.ended("a", 10.0, None) for _ in range(3)] == [False, False, True]
    assert made.ejected(29.9) == ["a"]
    assert made.ejected(30.0) == []


def test_a_success_between_errors_starts_the_count_again() -> None:
    made = asked("round-robin", "abc", BalancingRules(consecutive_errors=2)).balancer
    assert not made.ended("a", 0.0, None)
    made.ended("a", 0.0, 0.1)
    assert not made.ended("a", 0.0, None)
    assert made.ended("a", 0.0, None)


@given(there=names, errors=st.lists(st.sampled_from("abcdefgh"), max_size=100))
def test_never_more_than_the_share_is_ejected(there: set[str], errors: list[str]) -> None:
    ask = asked("least-outstanding", there, BalancingRules(consecutive_errors=1, most_ejected=0.5))
    for name in errors:
        ask.balancer.ended(name, 1.0, None)
        assert len(ask.balancer.ejected(1.0)) <= 0.5 * len(there)
        assert ask(now=1.0) not in ask.balancer.ejected(1.0)
