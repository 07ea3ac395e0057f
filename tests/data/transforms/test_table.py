from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.records.schema import Field
from ganglion.data.transforms import Bucketise, Cast, Cross, Drop, LookUp, Rename, Scale, Select

RUNS = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = np.array([3.0, -1.0, 0.0, np.nan, 8.0, np.inf, 7.999], np.float64)


def test_bucketise_counts_the_boundaries_that_are_not_above(run) -> None:
    outcome = run({"x": NUMBERS}, Bucketise("x", (0, 8), "bucket"))
    assert outcome["bucket"] == [1, 0, 1, 2, 2, 1]
    assert [(bad.id, bad.reason) for bad in outcome.bad] == [(3, "'x' is NaN, which is in no range")]
    assert run({"x": NUMBERS}, Bucketise("x", (0, 8), missing=-1))["x"] == [1, 0, 1, -1, 2, 2, 1]
    assert run({"x": np.arange(6).reshape(3, 2)}, Bucketise("x", (2,)))["x"] == [[0, 0], [1, 1], [1, 1]]


def test_scale_maps_a_range_to_another(run) -> None:
    made = run({"x": NUMBERS}, Scale("x", -1.0, 3.0, 0.0, 2.0)).array("x")
    np.testing.assert_allclose(made, [2.0, 0.0, 0.5, np.nan, 4.5, np.inf, 4.4995], rtol=1e-6)
    assert run({"x": NUMBERS[:3]}, Scale("x", 3.0, 3.0))["x"][0] == 0.0


@RUNS
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", "ab", ""]), st.integers(-3, 3)), min_size=1, max_size=40),
    buckets=st.integers(1, 1000),
)
def test_crossed_columns_have_equal_numbers_where_they_are_equal(run, rows, buckets: int) -> None:
    words, numbers = zip(*rows, strict=True)
    columns = {"word": pa.array(words), "number": np.array(numbers)}
    found = run(columns, Cross(("word", "number"), buckets, "cross"))["cross"]
    assert all(0 <= number < buckets for number in found)
    by_row: dict = {}
    assert all(by_row.setdefault(row, number) == number for row, number in zip(rows, found, strict=True))
    narrow = run({**columns, "number": np.array(numbers, np.int8)}, Cross(("word", "number"), buckets, "cross"))
    assert narrow["cross"] == found


def test_crosses_spread_and_their_order_counts(run) -> None:
    columns = {"a": np.repeat(np.arange(50), 50), "b": np.tile(np.arange(50), 50)}
    found = np.array(run(columns, Cross(("a", "b"), 10, "cross"))["cross"])
    assert np.bincount(found, minlength=10).min() > 180
    assert run(columns, Cross(("b", "a"), 10, "cross"))["cross"] != found.tolist()
    assert len(set(run({"x": np.array([np.nan, -np.nan, 0.0, -0.0])}, Cross(("x",), 10**9, "cross"))["cross"])) == 2


def test_look_up_finds_places_and_what_is_unknown_is_bad_or_has_a_number(run) -> None:
    words = {"word": pa.array(["b", "c", "a", "b"])}
    outcome = run(words, LookUp("word", ("b", "a")))
    assert outcome["word"] == [0, 1, 0]
    assert [bad.id for bad in outcome.bad] == [1]
    assert run(words, LookUp("word", ("b", "a"), unknown=2, into="number"))["number"] == [0, 2, 1, 0]
    numbers = {"x": np.array([30, 10, 20]), "pair": np.array([[10, 30], [10, 5], [30, 30]], np.uint8)}
    assert run(numbers, LookUp("x", (10, 30), unknown=-7))["x"] == [1, 0, -7]
    assert run(numbers, LookUp("pair", (10, 30)))["pair"] == [[0, 1], [1, 1]]
    tokens = {"t": pa.array([[10, 30], [], [5], [30]], pa.list_(pa.int64()))}
    outcome = run(tokens, LookUp("t", (10, 30)))
    assert outcome["t"] == [[0, 1], [], [1]]
    assert [bad.id for bad in outcome.bad] == [2]
    assert run(tokens, LookUp("t", (10, 30), unknown=9))["t"] == [[0, 1], [], [9], [1]]


def test_fields_are_selected_dropped_and_renamed(run) -> None:
    columns = {"a": np.arange(5), "b": np.arange(5) * 2.0, "c": np.ones((5, 2), bool)}
    assert [f.name for f in run(columns, Select(("c", "a"))).schema] == ["c", "a"]
    assert [f.name for f in run(columns, Drop(("b",))).schema] == ["a", "c"]
    renamed = run(columns, Rename({"a": "b", "b": "a"}))
    assert [f.name for f in renamed.schema] == ["b", "a", "c"]
    assert renamed["b"] == [0, 1, 2, 3, 4]


DTYPES = ["bool", "int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
VALUES = [
    0,
    1,
    -1,
    0.5,
    127,
    128,
    255,
    -129,
    65504,
    1e6,
    2**31,
    2**53 + 1,
    -(2**63),
    2**63,
    2**64,
    np.nan,
    np.inf,
    1e39,
]


@pytest.mark.parametrize("given_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cast_keeps_values_or_says_that_it_cannot(run, given_dtype: str, dtype: str) -> None:
    values = []
    for value in VALUES:
        try:
            with np.errstate(over="ignore"):
                values.append(
                    np.array([value]).astype(given_dtype)
                    if "int" not in given_dtype
                    else np.array([value], given_dtype)
                )
        except (OverflowError, ValueError):
            continue
    column = np.concatenate(values)
    outcome = run({"x": column}, Cast({"x": dtype}))
    bad = {record.id for record in outcome.bad}
    kept = iter(outcome["x"])
    for number, value in enumerate(column.tolist()):
        if np.dtype(dtype).kind in "biu":
            limits = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            fits = np.isfinite(value) and int(value) == value and limits[0] <= int(value) <= limits[1]
        else:
            with np.errstate(over="ignore"):
                fits = not np.isfinite(value) or bool(np.isfinite(np.dtype(dtype).type(value)))
        assert fits == (number not in bad), (value, dtype)
        if fits and np.dtype(dtype).kind in "biu":
            assert next(kept) == value
        elif fits:
            with np.errstate(over="ignore"):
                np.testing.assert_equal(next(kept), float(np.dtype(dtype).type(value)))


def test_cast_between_text_bytes_numbers_and_in_sequences(run) -> None:
    text = {"x": pa.array(["1", "-2", "many", "300", None])}
    outcome = run(text, Cast({"x": "int8"}))
    assert outcome["x"] == [1, -2]
    assert [bad.id for bad in outcome.bad] == [2, 3, 4]
    assert run({"x": np.array([1.5, np.nan])}, Cast({"x": "text"}))["x"] == ["1.5", "nan"]
    assert run({"x": pa.array([b"\xc3\xbc", b"\xff"])}, Cast({"x": "text"}))["x"] == ["ü"]
    assert run({"x": pa.array(["ü"])}, Cast({"x": "bytes"}))["x"] == [b"\xc3\xbc"]
    tokens = {"x": pa.array([[1, 2], [], [300], [3]], pa.list_(pa.int64()))}
    outcome = run(tokens, Cast({"x": "uint8"}))
    assert outcome["x"] == [[1, 2], [], [3]]
    assert [bad.id for bad in outcome.bad] == [2]
    assert outcome.schema == (Field("x", "uint8", sequence=True),)


GIVEN = (Field("x", "float64"), Field("word", "text"), Field("t", "int32", sequence=True), Field("z", "complex64"))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Bucketise("x", ()), "given: none"),
        (lambda: Bucketise("x", (2, 1)), "2, 1"),
        (lambda: Bucketise("word", (2,)).schema(GIVEN), "word text"),
        (lambda: Scale("x", 2, 1), "from 2"),
        (lambda: Scale("word", 1, 2).schema(GIVEN), "word"),
        (lambda: Cross(("x",), 0, "y"), "0 buckets"),
        (lambda: Cross(("t",), 5, "y").schema(GIVEN), "single numbers or text"),
        (lambda: LookUp("x", ()), "one at least"),
        (lambda: LookUp("x", ("a", "a")), "each once"),
        (lambda: LookUp("word", (1, 2)).schema(GIVEN), "integers can be looked up"),
        (lambda: LookUp("x", (1, 2)).schema(GIVEN), "x float64"),
        (lambda: Cast({"word": "bytes", "t": "text"}).schema(GIVEN), "t int32 ...; it cannot become text"),
        (lambda: Cast({"x": "float99"}).schema(GIVEN), "float99"),
        (lambda: Cast({"z": "float64"}).schema(GIVEN), "complex"),
        (lambda: Select(("y",)).schema(GIVEN), "'y'"),
        (lambda: Drop(("y",)).schema(GIVEN), "'y'"),
        (lambda: Rename({"y": "x"}).schema(GIVEN), "'y'"),
        (lambda: Rename({"x": ""}), "to nothing"),
    ],
)
def test_what_is_not_possible_is_refused(make, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make()
