from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.config import convert
from ganglion.core.errors import ConfigurationError
from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key
from ganglion.serving.gateway.audit import Audit
from ganglion.serving.gateway.concurrency import ConcurrencyLimit, Entry
from ganglion.serving.gateway.token_bucket import TokenBucket
from ganglion.serving.gateway.turn import Startable, Turn
from ganglion.serving.routes import Routes


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=100),
)
def test_a_bucket_lets_no_more_pass_than_its_rate_and_its_burst(rate: float, burst: int, pauses: list[float]) -> None:
    now, passed = 100.0, 0
    bucket = TokenBucket(rate, burst, now)
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        passed += wait == 0.0
        assert 0.0 <= wait <= 1.0 / rate
        assert passed <= burst + (now - 100.0) * rate + 1e-6


@given(rate=st.floats(0.1, 1000), burst=st.integers(1, 5))
def test_whoever_comes_back_when_told_to_passes(rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    assert [bucket.take(0.0) for _ in range(burst)] == [0.0] * burst
    wait = bucket.take(0.0)
    assert wait > 0.0
    assert bucket.take(wait * (1 + 1e-9) + 1e-9) == 0.0


steps = st.lists(st.one_of(st.integers(0, 50), st.just("leave"), st.just("withdraw")), max_size=80)


@given(most=st.integers(1, 4), waiting=st.integers(0, 5), size=st.integers(0, 120), steps=steps)
def test_limits_hold_everybody_has_a_turn_and_nobody_overtakes(
    most: int, waiting: int, size: int, steps: list[int | str]
) -> None:
    limit: ConcurrencyLimit[int] = ConcurrencyLimit(most, waiting, size)
    running, queue, sizes = 0, [], {}
    for number, step in enumerate(steps):
        if step == "leave":
            if running:
                following = limit.leave()
                assert following == (queue.pop(0) if queue else None)
                running -= following is None
        elif step == "withdraw":
            had = bool(queue)
            assert limit.withdraw(queue.pop() if queue else -1) == had
        else:
            assert isinstance(step, int)
            entry = limit.enter(number, step)
            if running < most:
                assert entry is Entry.RUNS
                running += 1
            elif len(queue) < waiting and sum(sizes[item] for item in queue) + step <= size:
                assert entry is Entry.WAITS
                queue.append(number)
                sizes[number] = step
            else:
                assert entry is Entry.REFUSED
        assert limit.running == running <= most
        assert list(limit) == queue
        assert limit.size == sum(sizes[item] for item in queue)


def test_of_four_two_run_and_two_wait() -> None:
    limit: ConcurrencyLimit[str] = ConcurrencyLimit(2, 10, 1000)
    assert [limit.enter(name, 1) for name in "abcd"] == [Entry.RUNS, Entry.RUNS, Entry.WAITS, Entry.WAITS]
    assert [limit.leave() for _ in range(4)] == ["c", "d", None, None]
    assert limit.running == 0


def test_the_first_refusal_is_told_at_once_and_the_others_once_a_second() -> None:
    audit = Audit()
    assert audit.note("ann", "rate", 10.0) == ("ann", "rate", 1)
    assert [audit.note("ann", "rate", 10.0 + step / 10) for step in range(1, 6)] == [None] * 5
    assert audit.note("bob", "rate", 10.5) == ("bob", "rate", 1)
    assert audit.due(10.9) == []
    assert audit.due(11.0) == [("ann", "rate", 5)]
    assert audit.due(20.0) == []
    assert audit.note("ann", "rate", 20.0) == ("ann", "rate", 1)


def test_keys_are_random_and_only_their_digest_is_kept() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) > 40
    key = keys.pop()
    callers = Callers(keys=(ApiKey(name="ann", digest=digest_of(key)),))
    assert key not in str(callers)
    routes = Routes.from_data(msgspec.json.decode(msgspec.json.encode(Routes(generation=1, callers=callers).to_data())))
    assert routes.callers == callers


@pytest.mark.parametrize(
    "values",
    [
        {"anonymous": {"concurrency": 0}},
        {"anonymous": {"rate": 0}},
        {"anonymous": {"burst": 0}},
        {"anonymous": {"concurency": 1}},
        {"keys": [{"name": "ann", "digest": "secret"}]},
        {"keys": [{"name": "", "digest": "0" * 64}]},
        {"keys": [{"name": "ann", "digest": "0" * 64}, {"name": "bob", "digest": "0" * 64}]},
        {"keys": [{"name": "ann", "digest": "0" * 64}, {"name": "ann", "digest": "1" * 64}]},
    ],
)
def test_limits_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        convert(Callers, values)


def test_limits_can_be_written_as_plain_data() -> None:
    given = {"anonymous": {"concurrency": 2, "rate": 10}, "keys": [{"name": "ann", "digest": "0" * 64, "limit": {}}]}
    callers = convert(Callers, given)
    assert callers.anonymous == CallerLimit(concurrency=2, rate=10.0)
    assert callers.keys[0].limit == CallerLimit()


class Instant:
    """A request that is over as soon as it starts."""

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.started = 0

    def start(self) -> None:
        assert self.turn is not None
        self.started += 1
        self.turn.leave()


def test_thousands_of_requests_that_end_at_once_are_no_recursion() -> None:
    limit: ConcurrencyLimit[Startable] = ConcurrencyLimit(1, 5000, 5000)
    later: list[Callable[[], None]] = []
    requests = [Instant() for _ in range(5000)]
    for request in requests:
        request.turn = Turn(limit, request, later.append)
        limit.enter(request, 1)
    requests[0].start()
    while later:
        later.pop()()
    assert {request.started for request in requests} == {1}
    assert (limit.running, len(limit)) == (0, 0)
