from __future__ import annotations

import functools
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError, OutageError
from ganglion.data import ArraySource, limit, source_data, source_from
from ganglion.data.records.bad_record import refuse
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field
from ganglion.data.records.unit import RECORDS
from ganglion.data.statistics import source_statistics
from ganglion.data.transform import transform_from
from ganglion.data.transforms import Filter, Map, Normalise, Pack, Select
from ganglion.data.transforms.chain import Chain

RUNS = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
X = np.arange(200, dtype=np.int64)
COLUMNS = {"x": X, "word": pa.array([f"w{n}" for n in X]), "image": X.repeat(4).reshape(200, 2, 2).astype(np.float32)}


def halves(columns):
    return {**columns, "half": columns["x"] / 2}


def record_halves(record):
    return {**record, "half": record["x"] / 2}


X_ONLY = (Field("x", "int64"),)


def fails_on(bad: set[int]):
    def double(columns):
        if bad & set(columns["x"].tolist()):
            raise ValueError("planted")
        return {"x": 2 * columns["x"]}

    return double


def test_a_function_of_columns_makes_the_fields(run) -> None:
    outcome = run(COLUMNS, Map(halves), borders=(70,))
    assert outcome.schema == (*(Field.of(name, column) for name, column in COLUMNS.items()), Field("half", "float64"))
    assert outcome["half"] == [n / 2 for n in range(200)]
    assert outcome["word"][-1] == "w199"


def test_a_function_of_records_makes_the_same(run) -> None:
    by_record, by_columns = run(COLUMNS, Map(record_halves, records=True)), run(COLUMNS, Map(halves))
    assert by_record.digest() == by_columns.digest()


def test_a_function_of_tensors_makes_the_same(run) -> None:
    outcome = run(COLUMNS, Select(("x", "image")), Map(halves, torch=True))
    assert outcome.schema[-1] == Field("half", "float32")  # torch divides integers so
    assert outcome["half"] == [n / 2 for n in range(200)]


@RUNS
@given(
    bad=st.sets(st.integers(0, 199), max_size=60),
    unreadable=st.sets(st.integers(0, 199), max_size=9),
    border=st.integers(0, 200),
)
def test_exactly_the_planted_bad_records_are_set_aside(run, bad: set[int], unreadable: set[int], border: int) -> None:
    outcome = run({"x": X}, Map(fails_on(bad), fields=X_ONLY), borders=(border,), unreadable=tuple(unreadable))
    assert outcome["x"] == [2 * n for n in range(200) if n not in bad | unreadable]
    ids = {n: RECORDS * (n >= border) + n - border * (n >= border) for n in range(200)}
    assert outcome.ids == [ids[n] for n in range(200) if n not in bad | unreadable]
    found = {record.id: record for record in outcome.bad if record.stage != "read"}
    assert set(found) == {ids[n] for n in bad - unreadable}
    for n in bad - unreadable:
        record = found[ids[n]]
        assert record.reason == "ValueError: planted"
        assert record.stage.startswith("map ")
        kept = msgspec.msgpack.decode(record.payload)["x"]
        assert np.frombuffer(kept["data"], kept["dtype"]).tolist() == [n]


def test_a_function_of_records_is_not_called_again_to_find_the_bad_ones() -> None:
    calls: list[int] = []

    def picky(record):
        calls.append(record["x"])
        return {"x": 1 // (record["x"] - 3)}

    transform = Map(picky, records=True, fields=(Field("x", "int64"),))
    batch, failures = Chain([transform], (Field("x", "int64"),)).apply(Batch({"x": X[:10]}, X[:10]), Draw())
    assert [failure.id for failure in failures] == [3]
    assert failures[0].reason.startswith("ZeroDivisionError")
    assert batch.ids.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(calls) == 19  # once over all, once over the good ones


@pytest.mark.parametrize("error", [OutageError("away"), ConnectionRefusedError(111, "away"), TimeoutError("away")])
def test_an_outage_is_not_a_bad_record(pieces, error: Exception) -> None:
    def away(columns):
        raise error

    source = pieces({"x": X}).map(away, fields=(Field("x", "int64"),))
    with pytest.raises(OutageError, match="away"):
        list(source.read_unit(source.units()[0], 2**20, refuse))


def test_what_is_set_aside_can_be_one_too_many(pieces) -> None:
    source = pieces({"x": X}).map(fails_on({50}), fields=X_ONLY)
    with pytest.raises(DataError, match=r"piece 0: map .*: ValueError: planted"):
        list(source.read_unit(source.units()[0], 2**20, refuse))


@RUNS
@given(keep=st.sets(st.integers(0, 199)))
def test_filtered_records_keep_their_ids(run, keep: set[int]) -> None:
    outcome = run(COLUMNS, Filter(lambda columns: np.isin(columns["x"], sorted(keep))))
    assert outcome.ids == outcome["x"] == sorted(keep)
    assert run(COLUMNS, Filter(lambda record: record["x"] in keep, records=True)).ids == outcome.ids


def test_a_filter_of_records_sets_those_aside_that_it_fails_on(run) -> None:
    outcome = run(
        {"x": X[:5]}, Filter(lambda record: [True, 1 / (record["x"] - 3), False][record["x"] % 2], records=True)
    )
    assert outcome.ids == [0, 2, 4]
    assert ["ZeroDivisionError" in bad.reason or "True or False" in bad.reason for bad in outcome.bad] == [True, True]


def test_random_functions_draw_by_record(run) -> None:
    def jitter(columns, chance):
        return {"x": columns["x"] + chance.uniform()[:, 0]}

    outcome = run({"x": X}, Map(jitter, random=True), seed=3)
    assert outcome["x"] != run({"x": X}, Map(jitter, random=True), seed=4)["x"]
    one = run(
        {"x": X},
        Map(lambda record, chance: {"x": record["x"] + chance.uniform()[0]}, records=True, random=True),
        seed=3,
    )
    assert one["x"] == outcome["x"]
    kept = run({"x": X}, Filter(lambda columns, chance: chance.uniform()[:, 0] < 0.5, random=True))
    assert 60 < len(kept.ids) < 140


def test_statistics_are_arguments_of_functions_also_as_plain_data() -> None:
    source = ArraySource({"x": X.astype(np.float64)})
    statistics = source_statistics(source)

    centred = source.map("tests_map_functions:centre", statistics=statistics, fields=[Field("x", "float64")])
    module = type(sys)("tests_map_functions")
    module.centre = lambda columns, statistics: {"x": columns["x"] - statistics["x"].values.mean}
    sys.modules["tests_map_functions"] = module
    try:
        for one in (centred, source_from(msgspec.msgpack.decode(msgspec.msgpack.encode(source_data(centred))))):
            assert one.read(0, 3)["x"].tolist() == [-99.5, -98.5, -97.5]
    finally:
        del sys.modules["tests_map_functions"]


def test_methods_of_sources_make_one_chain(pieces) -> None:
    source = (
        pieces(COLUMNS)
        .filter(lambda columns: columns["x"] % 2 == 0)
        .map(halves)
        .rename(half="y")
        .select("y", "x")
        .cast(y="int32")
        .drop("x")
    )
    assert [type(transform).__name__ for transform in source.transforms] == [
        "Filter", "Map", "Rename", "Select", "Cast", "Drop",
    ]  # fmt: skip
    assert source.schema == (Field("y", "int32"),)
    assert source.read(0, 100)["y"].tolist() == list(range(100))
    assert source.count == 100
    assert source.units()[0].records is None
    assert pieces(COLUMNS).map(halves).units()[0].records == 200


def test_units_of_the_other_source_are_read_as_they_are_there(pieces) -> None:
    limited = limit(pieces(COLUMNS, (70, 150)), 100)
    source = limited.filter(lambda columns: columns["x"] % 2 == 0)
    assert source.count == 50
    assert limit(source, 40).read(0, 40)["x"].tolist() == list(range(0, 80, 2))
    assert source.units()[1].inner == limited.units()[1]
    with pytest.raises(DataError, match="made of another unit"):
        next(source.read_unit(pieces(COLUMNS).units()[0], 1000, refuse))


def test_a_source_with_transforms_is_plain_data() -> None:
    source = ArraySource({"x": X}).map(lambda columns: {"x": columns["x"] + 1}).transform(Normalise("x", 1.0, 2.0))
    rebuilt = source_from(msgspec.msgpack.decode(msgspec.msgpack.encode(source_data(source))))
    assert rebuilt.read(0, 9)["x"].tolist() == source.read(0, 9)["x"].tolist() == [n / 2 for n in range(9)]
    assert rebuilt.fingerprint() == source.fingerprint()


class Half:
    def of(self, columns):
        return halves(columns)


@pytest.mark.parametrize("function", [functools.partial(halves), Half().of, lambda columns: halves(columns)])
def test_every_kind_of_callable_travels(function) -> None:
    source = ArraySource({"x": X}).map(function)
    rebuilt = source_from(msgspec.msgpack.decode(msgspec.msgpack.encode(source_data(source))))
    assert rebuilt.read(0, 2)["half"].tolist() == source.read(0, 2)["half"].tolist() == [0.0, 0.5]
    assert rebuilt.fingerprint() == source.fingerprint()


def test_batches_keep_to_their_size(pieces, outcome) -> None:
    def widen(columns):
        return {"wide": np.zeros((len(columns["x"]), 1000))}

    def lengthen(columns):
        return {"text": pa.array(["a" * 8000] * len(columns["x"]))}

    for function in (widen, lengthen):
        for size in (10_000, 100_000):
            found = outcome(pieces({"x": np.arange(3000)}).map(function), size)
            assert max(batch.nbytes for batch in found.batches) <= size
    few = outcome(pieces({"x": np.arange(100_000)}).filter(lambda columns: columns["x"] % 100 == 0), 8_000)
    assert len(few.batches) <= 5  # 8,000 bytes in all, joined again after the filter


def test_transforms_of_loaded_batches_say_what_failed_and_refuse_to_pack() -> None:
    schema = (Field("x", "int64"),)
    batch, failures = Chain([Map(fails_on({1, 2}), fields=X_ONLY)], schema).apply(
        Batch({"x": X[:4]}, X[:4] + 10), Draw()
    )
    assert batch.columns["x"].tolist() == [0, 6]
    assert [(failure.id, failure.stage[:3]) for failure in failures] == [(11, "map"), (12, "map")]
    batch, _ = Chain([Filter(lambda columns: columns["x"] < 0)], schema).apply(Batch({"x": X}, X), Draw())
    assert batch.columns["x"].dtype == np.int64
    assert len(batch) == 0
    tokens = pa.array([[1], [2]], pa.list_(pa.int64()))
    with pytest.raises(DataError, match="pack makes new records of several"):
        Chain([Pack("t", 4)], (Field("t", "int64", sequence=True),)).apply(Batch({"t": tokens}, X[:2]), Draw())


def unknown_module(columns):
    return eval("columns")


def test_the_fingerprint_is_that_of_source_options_and_code(pieces) -> None:
    source = pieces({"x": X})

    def with_factor(factor):
        return lambda columns: {"x": columns["x"] * factor}

    same = {source.map(with_factor(2)).fingerprint() for _ in range(3)}
    assert len(same) == 1
    others = [
        source.map(with_factor(3)),
        source.map(lambda columns: {"x": columns["x"] + 2}),
        source.map(with_factor(2)).transform(Normalise("x", 0.0, 1.0)),
        source.map(with_factor(2)).transform(Normalise("x", 0.0, 2.0)),
        source.transform(Map(with_factor(2)), seed=1),
        pieces({"x": X + 1}).map(with_factor(2)),
        source.map(with_factor(2), fields=[Field("x", "int32")]),
    ]
    assert len({one.fingerprint() for one in others} | same) == 1 + len(others)
    assert len({one.units()[0].fingerprint for one in others[:5]}) == 5


def test_code_that_cannot_be_followed_has_another_fingerprint_each_time(pieces) -> None:
    source = pieces({"x": X}).map(unknown_module)
    assert source.read(0, 2)["x"].tolist() == [0, 1]
    assert source.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Map(3), "given as 3"),
        (lambda: Map(halves, records=True, torch=True), "one of records and torch"),
        (lambda: ArraySource({"x": X}).map(lambda columns: {}).schema, "returns no fields"),
        (lambda: ArraySource({"x": X}).map(lambda columns: {"y": columns["z"]}).schema, "KeyError: 'z'.*fields="),
        (lambda: ArraySource({"x": X}).map(lambda columns: {"y": columns["x"][:1]}).schema, "'y' of 1"),
        (lambda: ArraySource({"x": X}).select().schema, "none"),
        (lambda: transform_from({"type": "ganglion.data:Field"}), "does not describe a transform"),
        (lambda: transform_from({"type": "ganglion.data.transforms.flip:Flip", "colum": "x"}), "colum"),
    ],
)
def test_what_is_not_possible_is_refused(make, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make()


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ({"x": np.zeros(7)}, "columns of other lengths: x 7"),
        ({"y": np.zeros(1)}, "the fields are x float64"),
        ({"x": np.zeros((1, 2))}, "shape"),
        ({"x": np.array(["a"])}, "not float64"),
        (None, "NoneType"),
    ],
)
def test_what_a_function_returns_is_checked(pieces, outcome, returned, problem: str) -> None:
    source = pieces({"x": np.zeros(3)}).map(lambda columns: returned, fields=[Field("x", "float64")])
    bad = outcome(source, 2**20).bad
    assert len(bad) == 3
    assert all(problem in record.reason for record in bad)
