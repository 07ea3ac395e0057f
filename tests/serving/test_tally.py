"""What several gateways count together, with the gateways as values."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import UserError
from ganglion.serving.gateway.siblings import label, merge
from ganglion.serving.gateway.tally import MOST_CALLERS, TALLY_BYTES, Share, SharedBucket, Tally, assign_rows
from ganglion.serving.gateway.token_bucket import TokenBucket
from ganglion.serving.load import Load, LoadSum


@pytest.fixture(scope="module")
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(TALLY_BYTES)
        yield file.fileno()


ROW = iter(range(MOST_CALLERS))


@given(
    gaps=st.lists(st.tuples(st.floats(0, 0.05), st.integers(0, 2)), min_size=1, max_size=300),
    rate=st.floats(5, 200),
    burst=st.integers(1, 20),
)
def test_together_they_let_in_what_one_would(
    descriptor: int, gaps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    row = next(ROW)
    buckets = [SharedBucket(TokenBucket(rate, burst, 0.0), Tally(descriptor, column), row) for column in range(3)]
    alone = TokenBucket(rate, burst, 0.0)
    now, together, wanted = 0.0, 0, 0
    for gap, gateway in gaps:
        now += gap
        for bucket in buckets:  # as at the ticks
            bucket.follow(now)
        together += buckets[gateway].take(now) == 0.0
        wanted += alone.take(now) == 0.0
    assert abs(together - wanted) <= 1  # rounding at the very edge of a token


def test_what_two_let_in_at_the_same_instant_is_owed(descriptor: int) -> None:
    row = next(ROW)
    first, second = (SharedBucket(TokenBucket(1.0, 1, 0.0), Tally(descriptor, column), row) for column in range(2))
    assert first._bucket.take(0.0) == 0.0  # both look before either counts
    assert second.take(0.0) == 0.0
    Tally(descriptor, 0).add(row)
    assert [round(bucket.take(0.0), 6) for bucket in (first, second)] == [2.0, 2.0]


def test_a_gateway_that_was_replaced_goes_on_counting(descriptor: int) -> None:
    row = next(ROW)
    before, other = Tally(descriptor, 0), Tally(descriptor, 1)
    before.add(row)
    after = Tally(descriptor, 0)
    after.add(row)
    assert (other.elsewhere(row), after.elsewhere(row)) == (2, 0)


@given(amount=st.integers(0, 10_000), gateways=st.integers(1, 16))
def test_shares_add_up(descriptor: int, amount: int, gateways: int) -> None:
    tally = Tally(descriptor, 0)
    shares = [Share(tally, {}, column, gateways).of(amount) for column in range(gateways)]
    assert sum(shares) == amount
    assert max(shares) - min(shares) <= 1


@given(first=st.lists(st.text(max_size=3), max_size=20), second=st.lists(st.text(max_size=3), max_size=20))
def test_rows_are_kept_and_never_shared(first: list[str], second: list[str]) -> None:
    before = assign_rows(first, {})
    after = assign_rows(second, before)
    assert after.keys() == set(second)
    assert len(set(after.values())) == len(after)
    assert all(after[name] == before[name] for name in after.keys() & before.keys())


def test_more_callers_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match="4097 callers"):
        assign_rows(map(str, range(MOST_CALLERS + 1)), {})


def test_pages_of_metrics_become_one() -> None:
    first = b'# HELP a Text.\n# TYPE a counter\na{m="x"} 1\n# HELP b B.\n# TYPE b gauge\nb 2\n'
    second = b'# HELP a Text.\n# TYPE a counter\na{m="x"} 5\na{m="y"} 6\n'
    assert merge([label(first, 0), label(second, 1)]).decode().splitlines() == [
        "# HELP a Text.",
        "# TYPE a counter",
        'a{gateway="0",m="x"} 1',
        'a{gateway="1",m="x"} 5',
        'a{gateway="1",m="y"} 6',
        "# HELP b B.",
        "# TYPE b gauge",
        'b{gateway="0"} 2',
    ]


def _load(requests: int, seconds: float, concurrency: float, waiting: int) -> Load:
    return Load(model="m", version=1, seconds=seconds, concurrency=concurrency, requests=requests, waiting=waiting)


def test_loads_of_gateways_add_up_until_one_is_gone() -> None:
    loads = LoadSum()
    assert loads.take("a", [_load(50, 0.5, 2.0, 3)]) == [_load(50, 0.5, 2.0, 3)]
    assert loads.take("b", [_load(10, 1.0, 1.0, 1)]) == [_load(110, 1.0, 3.0, 4)]
    assert loads.take("a", [_load(0, 0.5, 0.0, 0)]) == [_load(5, 0.5, 1.0, 1)]
    loads.forget("b")
    assert loads.take("a", [_load(7, 0.5, 1.5, 2)]) == [_load(7, 0.5, 1.5, 2)]
