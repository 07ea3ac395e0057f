from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import ArraySource, MixedSource, interleave


def numbers(count: int, first: int = 0) -> ArraySource:
    return ArraySource({"n": np.arange(first, first + count)})


def order(source: MixedSource, size: int = 2**20) -> list[int]:
    return [int(row[0]) for row in read_all(source, size)[0].values()]


def test_interleaving_takes_one_of_each_in_turn_until_all_are_through() -> None:
    mixture = interleave(numbers(2), numbers(4, 10), numbers(3, 20))
    assert order(mixture) == [0, 10, 20, 1, 11, 21, 12, 22, 13]


def test_weights_hold_from_the_first_records_on() -> None:
    found = order(MixedSource(sources=(numbers(300), numbers(100, 1000)), weights=(3, 1)))
    small = np.array(found) >= 1000
    for end in range(4, 401):
        assert abs(small[:end].sum() - end / 4) <= 1
    assert [n for n in found if n < 1000] == list(range(300))


def test_a_mixture_can_end_with_the_first_source_that_ends() -> None:
    found = order(MixedSource(sources=(numbers(10), numbers(100, 1000)), weights=(1, 2), until="first"))
    assert sum(n < 1000 for n in found) == 10
    assert 19 <= sum(n >= 1000 for n in found) <= 21


@given(counts=st.lists(st.integers(0, 40), min_size=2, max_size=4), size=st.integers(1, 400), data=st.data())
def test_every_record_comes_once_and_the_order_does_not_depend_on_the_size(counts, size, data) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(counts), max_size=len(counts)))
    sources = tuple(numbers(count, 1000 * number) for number, count in enumerate(counts))
    until = data.draw(st.sampled_from(["all", "first"]))
    mixture = MixedSource(sources=sources, weights=tuple(weights), until=until)
    found = order(mixture, size)
    assert found == order(mixture)
    for number, count in enumerate(counts):
        mine = [n % 1000 for n in found if n // 1000 == number]
        assert mine == list(range(count))[: len(mine)]
        assert until == "first" or len(mine) == count
    if until == "first":
        assert any(sum(n // 1000 == number for n in found) == count for number, count in enumerate(counts))


def test_sources_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match="m int64; source 0 has n int64"):
        _ = interleave(numbers(2), ArraySource({"m": [1]})).schema
    with pytest.raises(DataError, match="two or more"):
        interleave(numbers(1))
    for weights in ((1,), (1, 0), (1, float("inf"))):
        with pytest.raises(DataError, match="one positive number"):
            MixedSource(sources=(numbers(1), numbers(1)), weights=weights)
