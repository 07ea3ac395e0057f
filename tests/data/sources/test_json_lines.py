from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import Field, JsonLinesSource
from ganglion.data.records.schema import describe


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_types_are_found_and_shown(put) -> None:
    path = put("a.jsonl", lines({"i": 1, "t": "x", "f": 1}, {"f": 2.5, "s": [1, 2], "b": True, "d": "2024-01-01"}))
    found = describe(JsonLinesSource(path).schema)
    assert found == "i int64, t text, f float64, s int64 ..., b bool, d text"


def test_values_that_are_missing_are_nan_or_set_their_record_aside(put) -> None:
    rows = lines({"f": 1.5, "i": 1}, {"i": 2}, {"f": None, "i": 3}, {"f": 1.0}, {"f": 1.0, "i": None})
    source = JsonLinesSource(put("a.jsonl", rows))
    records, bad = read_all(source)
    assert [row[1] for row in records.values()] == ["1", "2", "3"]
    assert [math.isnan(float(row[0])) for row in records.values()] == [False, True, True]
    assert [record.reason for record in bad.values()] == ["'i' has no value"] * 2
    required = JsonLinesSource(source.paths, required=("f",))
    assert [record.reason for record in read_all(required)[1].values()].count("'f' is NaN") == 2


def test_arrays_have_their_shape_or_are_set_aside(put) -> None:
    rows = lines(
        {"x": [[1, 2, 3], [4, 5, 6]]}, {"x": [[1, 2, 3]]}, {"x": [[1, 2], [3, 4]]}, {"x": [[1, 2, 3], [4, 5, None]]}
    )
    source = JsonLinesSource(put("a.jsonl", rows), fields=(Field("x", "int16", (2, 3)),))
    records, bad = read_all(source)
    assert list(records.values()) == [("[[1, 2, 3], [4, 5, 6]]",)]
    assert [record.reason for record in bad.values()] == [
        "'x' is not 2x3 int16",
        "'x' is not 2x3 int16",
        "'x' has no value",
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"i": 1', "JSON parse error"),
        (b"[1]", "array"),
        (b'{"i": 1}{"i": 2}', "one"),
        (b'{"i": "1"}', "string"),
        (b'{"i": 1, "i": 2}', "twice"),
        (b'{"i": 1, "new": 2}', "unexpected field"),
        (b'{"i": 1}\xff', "byte 98 is not utf-8"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_place_and_the_others_go_on(put, row: bytes, reason: str) -> None:
    good = [b'{"i": %d}\n' % (i % 10) for i in range(200)]
    source = JsonLinesSource(put("a.jsonl", b"".join(good[:10]) + row + b"\n" + b"".join(good)))
    records, bad = read_all(source)
    assert len(records) == 210
    ((record,),) = [list(bad.values())]
    assert (record.offset, record.payload) == (90, row)
    assert reason in record.reason


@pytest.mark.parametrize("value", ["1.5", "300", "99999999999999999999", "-1"])
def test_a_number_that_a_field_cannot_hold_is_set_aside(put, value: str) -> None:
    content = f'{{"i": 1}}\n{{"i": {value}}}\n'.encode()
    source = JsonLinesSource(put("a.jsonl", content), fields=(Field("i", "uint8"),))
    records, bad = read_all(source)
    assert list(records.values()) == [("1",)]
    assert [value in record.reason for record in bad.values()] == [True]


def test_other_keys_are_passed_over_where_fields_are_named(put) -> None:
    source = JsonLinesSource(put("a.jsonl", lines({"i": 1, "j": {"deep": []}})), fields=(Field("i", "int8"),))
    assert source.read(0, 1)["i"].tolist() == [1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\n \n", "no records"),
        (b"1\n2\n", "no line that is a JSON object"),
        (b'{"a": {"b": 1}}', "'a'"),
    ],
)
def test_files_without_fields_are_refused_by_name(put, content: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=rf"a\.jsonl.*{problem}"):
        _ = JsonLinesSource(put("a.jsonl", content)).schema


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.text(max_size=30),
            st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), max_size=4),
        ),
        max_size=50,
    )
)
def test_whatever_is_written_is_read_back(put, small_blocks, rows) -> None:
    content = lines(*({"i": i, "t": t, "s": s} for i, t, s in rows))
    fields = (Field("i", "int64"), Field("t", "text"), Field("s", "float64", sequence=True))
    records, bad = read_all(JsonLinesSource(put("a.jsonl", content or b"\n"), fields=fields), 64)
    assert not bad
    assert list(records.values()) == [(str(i), repr(t), repr(list(map(float, s)))) for i, t, s in rows]
