from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import ArraySource, frame_source
from ganglion.data.records.schema import describe


def test_numpy_arrays_are_not_copied() -> None:
    x = np.arange(10)
    (batch,) = ArraySource({"x": x}).read_unit(ArraySource({"x": x}).units()[0], 1000, lambda record: None)
    assert np.shares_memory(batch.columns["x"], x)


def test_text_bytes_and_sequences_are_columns_too() -> None:
    source = ArraySource({"t": ["a", "ü"], "b": [b"\0", b""], "s": pa.array([[1], []]), "u": np.array(["x", "y"])})
    assert describe(source.schema) == "t text, b bytes, s int64 ..., u text"
    assert source.read(0, 2)["s"].to_pylist() == [[1], []]


def test_data_frames_of_pandas_are_read_with_what_they_lack() -> None:
    frame = pd.DataFrame(
        {
            "i": pd.array([1, None, 3], "Int32"),
            "f": [1.5, np.nan, 2.5],
            "t": ["a", "b", "c"],
            "c": pd.Categorical(["u", "v", "u"]),
            "b": [True, False, True],
        },
        index=[5, 6, 7],
    )
    source = frame_source(frame)
    assert describe(source.schema) == "i int32, f float64, t text, c text, b bool"
    records, bad = read_all(source)
    assert [row[2] for row in records.values()] == ["'a'", "'c'"]
    assert [record.reason for record in bad.values()] == ["'i' has no value"]
    assert frame_source(frame[["f"]]).count == 3
    assert [record.reason for record in read_all(frame_source(frame[["f"]], required=("f",)))[1].values()] in (
        ["'f' is NaN"],
        ["'f' has no value"],
    )


def test_times_count_their_unit() -> None:
    days = [datetime.date(1970, 1, 2), datetime.date(1970, 1, 11)]
    assert frame_source(pa.table({"d": days})).read(0, 2)["d"].tolist() == [1, 10]


def test_frames_that_speak_the_older_protocol_are_read_as_well() -> None:
    class Frame:
        def __init__(self, table: pa.Table) -> None:
            self._table = table

        def __dataframe__(self, *args, **kwargs):
            return self._table.__dataframe__(*args, **kwargs)

    assert frame_source(Frame(pa.table({"x": [1, 2]}))).read(0, 2)["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ([1, 2], "list is no data frame"),
        (pa.table({"x": [{"a": 1}]}), "'x' holds struct"),
        (pa.table({}), "there are no columns"),
    ],
)
def test_what_is_no_frame_of_records_is_refused(frame, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        _ = frame_source(frame).schema


def test_fingerprints_of_text_depend_on_values_and_where_they_end() -> None:
    prints = [
        ArraySource({"t": column}).fingerprint()
        for column in (["ab", "c"], ["a", "bc"], [b"ab", b"c"], pa.array(["ab", "c", None]), ["ab", "c", ""])
    ]
    assert len(set(prints)) == 5
    parts = pa.chunked_array([["ab"], ["c"]])
    assert ArraySource({"t": parts}).fingerprint() == prints[0]
    assert ArraySource({"t": pa.array(["x", "ab", "c"])[1:]}).fingerprint() == prints[0]
