from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data import ArraySource, Split, Statistics, prepare, source_statistics, statistics_of, whole
from ganglion.data.moments import Moments, MomentsTree
from ganglion.data.records.bad_record import SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import part, records_of
from ganglion.data.records.schema import Field, Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource
from ganglion.data.transforms import LookUp, Normalise, Scale
from ganglion.data.vocabulary import Vocabulary

RNG = np.random.default_rng(8)
WORDS = np.array(["ant", "bee", "cat", "dog"])


def columns(count: int = 20_000) -> dict[str, Any]:
    x = RNG.normal(5, 2, count)
    x[::100] = np.nan
    x[7] = np.inf
    return {
        "x": x,
        "label": RNG.integers(0, 9, count),
        "image": RNG.integers(0, 256, (count, 4, 4, 3), np.uint8),
        "word": pa.array([None if n % 50 == 0 else WORDS[n % 4] for n in range(count)]),
        "tokens": pa.array([list(range(n % 5)) for n in range(count)], pa.list_(pa.int32())),
    }


class Batches(PlainSource, frozen=True, eq=False):
    """Columns in batches of so many records, whatever is asked for."""

    columns: Any
    records: int
    borders: tuple[int, ...] = ()

    @property
    def schema(self) -> Schema:
        return tuple(Field.of(name, column) for name, column in self.columns.items())

    def units(self) -> Sequence[Unit]:
        ends = (*self.borders, records_of(self.columns))
        pairs = enumerate(zip((0, *self.borders), ends, strict=True))
        return [Unit(number=number, name="", start=start, stop=stop) for number, (start, stop) in pairs]

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        for start in range(unit.start, unit.stop, self.records):
            stop = min(start + self.records, unit.stop)
            yield Batch(part(self.columns, start, stop), unit.ids(start - unit.start, stop - unit.start))


def test_statistics_are_those_of_the_values() -> None:
    given = columns()
    found = source_statistics(Batches(given, 999, (500, 12_000)))
    assert found.records == 20_000
    finite = given["x"][np.isfinite(given["x"])]
    x = found["x"]
    assert x.values.count == len(finite)
    assert x.values.mean == pytest.approx(finite.mean(), rel=1e-13)
    assert x.values.deviation == pytest.approx(finite.std(), rel=1e-13)
    assert (x.values.minimum, x.values.maximum) == (finite.min(), finite.max())
    assert (x.missing, x.infinite) == (200, 1)
    labels, counts = np.unique(given["label"], return_counts=True)
    assert dict(found["label"].vocabulary) == dict(zip(labels.tolist(), counts.tolist(), strict=True))
    for channel, moments in enumerate(found["image"].channels):
        values = given["image"][..., channel]
        assert moments.mean == pytest.approx(values.mean(), rel=1e-13)
        assert moments.deviation == pytest.approx(values.std(), rel=1e-12)
    assert found["image"].values.deviation == pytest.approx(given["image"].std(), rel=1e-12)
    words = given["word"].drop_null().to_pylist()
    assert dict(found["word"].vocabulary) == {word: words.count(word) for word in WORDS.tolist()}
    assert found["word"].missing == 400
    assert found["word"].lengths == Moments.of(np.full(19_600, 3))
    assert found["tokens"].lengths.maximum == 4
    assert dict(found["tokens"].vocabulary) == {0: 16_000, 1: 12_000, 2: 8_000, 3: 4_000}
    assert msgspec.json.decode(msgspec.json.encode(found), type=Statistics) == found


@settings(max_examples=8, deadline=None)
@given(records=st.integers(1, 3000))
def test_the_size_of_batches_does_not_change_one_bit(records: int) -> None:
    given = {"x": RANDOM_X, "image": RANDOM_IMAGES, "word": RANDOM_WORDS}
    assert source_statistics(Batches(given, records + 60, (777,))) == REFERENCE


RANDOM_X, RANDOM_IMAGES = RNG.normal(size=9000) * 10.0 ** RNG.integers(-9, 9, 9000), RNG.normal(size=(9000, 5, 9))
RANDOM_WORDS = pa.array(WORDS[RNG.integers(0, 4, 9000)])
REFERENCE = source_statistics(Batches({"x": RANDOM_X, "image": RANDOM_IMAGES, "word": RANDOM_WORDS}, 10**6, (777,)))


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), cuts=st.lists(st.integers(0, 60), max_size=9))
def test_moments_of_pieces_are_those_of_all(values: list[float], cuts: list[int]) -> None:
    tree = MomentsTree()
    for piece in np.split(np.array(values), sorted(cuts)):
        tree.add(Moments.of(piece))
    total, array = tree.total(), np.array(values)
    assert total.count == len(values)
    assert total.mean == pytest.approx(array.mean(), rel=1e-9, abs=1e-9)
    assert total.deviation == pytest.approx(array.std(), rel=1e-6, abs=1e-6)
    assert (total.minimum, total.maximum) == (array.min(), array.max())


def test_the_mean_of_large_numbers_that_hardly_differ_is_stable() -> None:
    values = 1e9 + RNG.random(200_000)
    found = source_statistics(ArraySource({"x": values}))["x"].values
    assert found.deviation == pytest.approx((values - 1e9).std(), rel=1e-7)  # the sum of squares would lose all digits


@given(values=st.lists(st.integers(0, 30), max_size=300), most=st.integers(1, 12), piece=st.integers(1, 50))
def test_counts_in_bounded_memory_miss_no_more_than_they_say(values: list[int], most: int, piece: int) -> None:
    vocabulary = Vocabulary(most)
    for start in range(0, len(values), piece):
        vocabulary.add(np.array(values[start : start + piece]))
    for value in set(values):
        true, found = values.count(value), vocabulary.counts.get(value, 0)
        assert true - vocabulary.undercount <= found <= true
    assert len(vocabulary.most_frequent()) <= most
    if vocabulary.undercount:
        assert vocabulary.undercount <= len(values) / (most + 1)


def test_statistics_of_a_part_know_nothing_of_the_others(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    given = columns(3000)
    given["word"] = pa.array(WORDS[RNG.integers(0, 4, 3000)])
    given.pop("tokens")
    dataset = prepare(ArraySource(given), store)
    split = Split({"train": 0.8, "held_out": 0.2}, seed=1)
    train, held_out = (split.part(name, dataset) for name in ("train", "held_out"))
    found = statistics_of(dataset, train)
    assert found.records == train.count

    changed = {name: (column.copy() if isinstance(column, np.ndarray) else column) for name, column in given.items()}
    hidden = held_out.records(np.arange(held_out.count))
    changed["x"][hidden] = 1e9
    changed["label"][hidden] = 77
    words = np.array(given["word"].to_pylist(), object)
    words[hidden] = "secret"
    changed["word"] = pa.array(words.tolist())
    leaked = prepare(ArraySource(changed), store)
    assert leaked.artifact != dataset.artifact
    assert statistics_of(leaked, train).columns == found.columns
    assert statistics_of(leaked, whole(3000)).columns != statistics_of(dataset, whole(3000)).columns
    for make in (
        lambda known: Normalise.fitted("x", known),
        lambda known: Normalise.fitted("image", known),
        lambda known: Scale.fitted("label", known),
        lambda known: LookUp.fitted("word", known),
    ):
        assert make(statistics_of(leaked, train)) == make(found)
        assert make(found).schema(dataset.schema)


def test_statistics_are_remembered_by_data_part_and_columns(tmp_path: Path) -> None:
    store, folder = FolderStore(tmp_path / "store"), tmp_path / "statistics"
    dataset = prepare(ArraySource({"x": np.arange(100.0), "y": np.arange(100)}), store)
    train = Split({"a": 0.5, "b": 0.5}).part("a", dataset)
    found = statistics_of(dataset, train, folder=folder)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b'"records":50', b'"records":51'))
    assert statistics_of(dataset, train, folder=folder).records == 51  # it was read, not computed
    others = (
        statistics_of(dataset, Split({"a": 0.5, "b": 0.5}).part("b", dataset), folder=folder),
        statistics_of(dataset, train, ["x"], folder=folder),
        source_statistics(ArraySource({"x": np.arange(100.0)}), folder=folder),
        source_statistics(ArraySource({"x": np.arange(1, 101.0)}), folder=folder),
    )
    assert len({found.key, *(one.key for one in others)}) == 5
    assert len(list(folder.iterdir())) == 5
    path.write_bytes(b"{")
    with pytest.raises(DataError, match="delete it"):
        statistics_of(dataset, train, folder=folder)


def test_vocabularies_are_cut_by_rank_and_count() -> None:
    found = source_statistics(ArraySource({"x": np.array([5, 3, 3, 5, 5, 1, 2])}))
    assert found.vocabulary("x") == (5, 3, 1, 2)
    assert found.vocabulary("x", most=3) == (5, 3, 1)
    assert found.vocabulary("x", at_least=2) == (5, 3)
    assert LookUp.fitted("x", found, most=2, unknown=-1) == LookUp("x", (5, 3), 2)
    many = source_statistics(ArraySource({"x": np.arange(1000)}), most_values=10)
    with pytest.raises(DataError, match="say how many"):
        many.vocabulary("x")
    assert len(many.vocabulary("x", most=3)) <= 3


SOME = source_statistics(ArraySource({"x": np.array([np.nan]), "y": np.array([1.5])}))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: SOME["z"], "'z'. Allowed: x, y"),
        (lambda: Normalise.fitted("x", SOME), "no finite number"),
        (lambda: SOME.vocabulary("y"), "no vocabulary"),
        (lambda: source_statistics(ArraySource({"x": np.zeros(2)}), ["y"]), "'y'"),
    ],
)
def test_what_is_not_known_is_an_error(make, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make()
