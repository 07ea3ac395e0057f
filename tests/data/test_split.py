from __future__ import annotations

from itertools import chain

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data import Part, Split
from ganglion.data.split import whole


def records_of(part: Part) -> list[int]:
    return part.records(np.arange(part.count)).tolist()


@given(
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    count=st.integers(400, 3000),
    seed=st.integers(0, 2**64 - 1),
)
def test_parts_by_fractions_share_no_record_and_miss_none(weights: list[int], count: int, seed: int) -> None:
    split = Split({f"part{n}": weight / sum(weights) for n, weight in enumerate(weights)}, seed)
    parts = [split.part(name, count) for name in split.parts]
    assert sorted(chain.from_iterable(map(records_of, parts))) == list(range(count))
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part.count - count * weight / sum(weights)) <= 1


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), seed=st.integers(0, 2**64 - 1))
def test_parts_by_counts_have_exactly_these_and_share_no_record(sizes: list[int], seed: int) -> None:
    split = Split({f"part{n}": size for n, size in enumerate(sizes)}, seed)
    parts = [split.part(name, sum(sizes)) for name in split.parts]
    assert [part.count for part in parts] == sizes
    assert sorted(chain.from_iterable(map(records_of, parts))) == list(range(sum(sizes)))


def test_a_split_is_the_same_every_time_and_another_with_another_seed() -> None:
    parts = {"train": 0.9, "held_out": 0.1}
    held_out = records_of(Split(parts).part("held_out", 1000))
    assert held_out == records_of(msgspec.convert(msgspec.to_builtins(Split(parts)), Split).part("held_out", 1000))
    assert len(set(held_out) & set(records_of(Split(parts, seed=1).part("held_out", 1000)))) < 30
    assert held_out[:5] == [381, 449, 202, 177, 66]  # never changes: runs depend on it


def test_the_held_out_part_is_spread_over_the_whole_dataset() -> None:
    held_out = np.array(records_of(Split({"train": 0.8, "held_out": 0.2}, seed=4).part("held_out", 10_000)))
    assert np.bincount(held_out // 1000, minlength=10).min() > 140


def test_the_whole_is_every_record_in_its_own_order() -> None:
    assert records_of(whole(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Split({}), "given: nothing"),
        (lambda: Split({"train": 0.5, "held_out": -0.5}), "held_out=-0.5"),
        (lambda: Split({"train": 0.9, "held_out": 0.2}), "sum to 1.*held_out=0.2"),
        (lambda: Split({"train": 0.9, "held_out": 100}), "not both"),
        (lambda: Split({"train": 10, "held_out": 5}).part("train", 16), "15 records together; the dataset has 16"),
        (lambda: Split({"train": 0.9, "held_out": 0.1}).part("held_out", 3), "held_out=0"),
        (lambda: Split({"train": 0.9, "held_out": 0.1}).part("heldout", 30), "Did you mean 'held_out'"),
        (lambda: whole(3).records(np.array([3])), "3 records"),
    ],
)
def test_what_is_no_split_is_refused(make, names: str) -> None:
    with pytest.raises(DataError, match=names):
        make()
