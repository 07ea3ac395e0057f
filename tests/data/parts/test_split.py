from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data import Folds, GroupSplit, Part, Split, StratifiedSplit, TimeSplit
from ganglion.data.parts.dataset_part import DatasetPart, where
from ganglion.data.parts.part import NestedPart, part_from, whole
from ganglion.data.parts.split import split_from
from ganglion.data.records.columns import Columns, take
from ganglion.data.records.columns import part as slice_of
from ganglion.data.records.schema import Field

PARTS = {"train": 0.7, "validation": 0.2, "test": 0.1}


class Table:
    """Columns that grew generation by generation."""

    def __init__(self, columns: Columns, *ends: int) -> None:
        self.columns = columns
        self.generations = ends
        self.count = ends[-1]
        self.schema = tuple(Field.of(name, column) for name, column in columns.items())
        self.starts = np.array([0, *ends])

    def slice(self, start: int, stop: int) -> Columns:
        return slice_of(self.columns, start, stop)

    def take(self, records: np.ndarray, columns: Sequence[str] | None = None) -> Columns:
        return take({name: self.columns[name] for name in columns or self.columns}, records)


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


GENERATIONS = st.lists(st.integers(0, 400), min_size=1, max_size=5).map(lambda sizes: np.cumsum([60, *sizes]).tolist())


def classes(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).choice(5, count, p=[0.5, 0.3, 0.1, 0.09, 0.01])


SPLITS = [
    Split(PARTS, 3),
    StratifiedSplit(PARTS, "label", 3),
    GroupSplit(PARTS, "group", 3),
    TimeSplit(PARTS, "time"),
    TimeSplit(PARTS, "time", (-0.5, 0.5)),
]


def table(ends: list[int]) -> Table:
    rng = np.random.default_rng(7)
    columns = {
        "label": classes(ends[-1]),
        "group": pa.array([f"patient {n}" for n in rng.integers(0, 60, ends[-1])]),
        "time": rng.normal(size=ends[-1]),
    }
    return Table(columns, *ends)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: type(split).__name__)
@settings(max_examples=10)
@given(ends=GENERATIONS)
def test_no_record_is_in_two_parts_and_none_moves_when_data_grows(split, ends: list[int]) -> None:
    before: dict[str, list[int]] = {name: [] for name in PARTS}
    for generation in range(1, len(ends) + 1):
        data = table(ends)
        data.generations, data.count = tuple(ends[:generation]), ends[generation - 1]
        parts = {name: split.part(name, data) for name in PARTS}
        for name, found in parts.items():
            records = records_of(found)
            assert records[: len(before[name])] == before[name]  # the same under the same numbers
            assert found.of == data.count
            assert found.generations[-1] == found.count
            numbers = found.numbers(np.arange(data.count))
            assert (numbers[records] == np.arange(found.count)).all()
            assert (numbers >= 0).sum() == found.count
            assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
            assert part_from(msgspec.to_builtins(found)) == found
            before[name] = records
        assert sorted(chain.from_iterable(before.values())) == list(range(data.count))
    assert split_from(msgspec.to_builtins(split)) == split


@settings(max_examples=40)
@given(ends=GENERATIONS, seed=st.integers(0, 99))
def test_random_parts_keep_their_shares_as_data_grows(ends: list[int], seed: int) -> None:
    sizes = Split(PARTS, seed).sizes(ends)
    assert all(abs(sizes[name] - share * ends[-1]) < 2 for name, share in PARTS.items())


@settings(max_examples=15)
@given(ends=GENERATIONS, seed=st.integers(0, 99))
def test_stratified_parts_have_their_share_of_every_class(ends: list[int], seed: int) -> None:
    labels = classes(ends[-1], seed)
    single = Table({"label": labels}, ends[-1])
    for data in (single, Table({"label": pa.array(labels.astype(str))}, *ends)):
        parts = {name: StratifiedSplit(PARTS, "label", seed).part(name, data) for name in PARTS}
        for name, share in PARTS.items():
            counts = np.bincount(labels[records_of(parts[name])], minlength=5)
            limit = 1 if data is single else 2
            assert (np.abs(counts - share * np.bincount(labels, minlength=5)) <= limit).all()
            assert abs(parts[name].count - share * ends[-1]) <= (1.5 if data is single else 4)


def test_small_classes_do_not_starve_a_part() -> None:
    labels = np.repeat(np.arange(200), 5)
    split = StratifiedSplit({"train": 0.9, "held_out": 0.1}, "label")
    assert split.part("held_out", Table({"label": labels}, 1000)).count == 100


def test_groups_stay_together_in_every_dataset() -> None:
    data = table([4000])
    groups = np.array(data.columns["group"].to_pylist())
    parts = {name: set(groups[records_of(GroupSplit(PARTS, "group").part(name, data))]) for name in PARTS}
    assert sum(map(len, parts.values())) == len(set(groups))
    assert 30 <= len(parts["train"]) <= 52
    other = Table({"group": pa.array(sorted(set(groups)))}, 60)
    for name, members in parts.items():
        found = records_of(GroupSplit(PARTS, "group").part(name, other))
        assert {sorted(set(groups))[record] for record in found} == members


def test_time_divides_the_past_from_the_future() -> None:
    times = np.random.default_rng(0).permutation(1000) // 2
    data = Table({"time": times, "later": times + 2**60}, 1000)
    for split in (TimeSplit(PARTS, "time"), TimeSplit(PARTS, "later"), TimeSplit(PARTS, "time", (350, 450))):
        found = [times[records_of(split.part(name, data))] for name in PARTS]
        assert [len(part) for part in found] == [700, 200, 100]
        assert found[0].max() < found[1].min() <= found[1].max() < found[2].min()
    grown = Table({"time": np.concatenate([times, [1000, 0]])}, 1000, 1002)
    assert records_of(TimeSplit(PARTS, "time").part("test", grown))[-1] == 1000
    assert records_of(TimeSplit(PARTS, "time").part("train", grown))[-1] == 1001


@pytest.mark.parametrize("options", [{}, {"stratify": "label"}, {"group": "group"}], ids=str)
@pytest.mark.parametrize("nested", [False, True])
def test_each_record_is_held_out_by_one_fold(options, nested: bool) -> None:
    data = table([500, 900])
    within = Split(PARTS).part("train", data) if nested else None
    folds = [Folds(4, seed=2, **options).fold(number, data, within) for number in range(4)]
    everything = sorted(records_of(within) if within else range(900))
    assert sorted(chain.from_iterable(records_of(fold.held_out) for fold in folds)) == everything
    for fold in folds:
        assert sorted(records_of(fold.train) + records_of(fold.held_out)) == everything
        assert part_from(msgspec.to_builtins(fold.train)) == fold.train
        assert (fold.held_out.numbers(np.array(records_of(fold.train))) == -1).all()
        if not options:
            assert abs(fold.held_out.count - len(everything) / 4) <= 2
        if "stratify" in options:
            counts = np.bincount(data.columns["label"][records_of(fold.held_out)], minlength=5)
            assert (np.abs(counts - np.bincount(data.columns["label"][everything], minlength=5) / 4) <= 2).all()
        if "group" in options:
            groups = np.array(data.columns["group"].to_pylist())
            assert not set(groups[records_of(fold.train)]) & set(groups[records_of(fold.held_out)])


def test_records_are_found_by_what_they_are_like() -> None:
    data = table([500])
    train = Split(PARTS).part("train", data)
    late = where(data, lambda columns: columns["time"] > 1, within=train)
    expected = {record for record in records_of(train) if data.columns["time"][record] > 1}
    assert set(records_of(late)) == expected
    assert DatasetPart(data, late).slice(0, late.count)["time"].min() > 1


TABLE = Table({"x": np.array([3, 1, 2, 1])}, 4)


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
        (lambda: whole(3).numbers(np.array([3])), "3 records"),
        (lambda: Split({"train": 10, "held_out": 5}).part("train", (5, 15)), "grown to 15.*fractions"),
        (lambda: StratifiedSplit({"a": 1}, "x"), "fractions"),
        (lambda: StratifiedSplit({"a": 1.0}, "y").part("a", TABLE), "'y'. Allowed: x"),
        (lambda: GroupSplit({"a": 0.5, "b": 0.5}, "x").part("c", TABLE), "'c'"),
        (lambda: TimeSplit({"a": 0.5, "b": 0.5}, "x", (1, 2)), "1 ascending times"),
        (lambda: TimeSplit({"a": 0.5, "b": 0.5}, "x", (9,)).part("b", TABLE), "'b' would be empty"),
        (lambda: TimeSplit({"a": 1.0}, "x").part("a", Table({"x": np.array([0, np.nan])}, 2)), "Record 1"),
        (lambda: Folds(1), "1 folds"),
        (lambda: Folds(3, stratify="x", group="x"), "one of the two"),
        (lambda: Folds(3).fold(3, TABLE), "Fold 3"),
        (lambda: split_from({"type": "ganglion.data:Part"}), "does not describe a split"),
        (lambda: split_from({"parts": {"a": "b"}}), "does not describe Split"),
        (lambda: part_from({"type": "random"}), "does not describe a part"),
        (lambda: NestedPart(whole(3), whole(4)), "4 records"),
        (lambda: DatasetPart(TABLE, whole(3)), "of 3 records; the dataset has 4"),
        (lambda: where(TABLE, lambda columns: columns["x"]), "int64"),
    ],
)
def test_what_is_no_split_is_refused(make, names: str) -> None:
    with pytest.raises(DataError, match=names):
        make()
