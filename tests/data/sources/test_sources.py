from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from ganglion.core.errors import DataError
from ganglion.data import ArraySource, Field, IdxSource, LimitedSource, limit, source_data, source_from

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = [3, 1, 4, 1]


def test_arrays_are_a_source_of_their_columns() -> None:
    source = ArraySource({"x": X, "y": Y})
    assert source.schema == (Field("x", "float32", (3,)), Field("y", "int64"))
    assert source.count == 4
    found = source.read(1, 3)
    assert (found["x"] == X[1:3]).all()
    assert found["y"].tolist() == [1, 4]
    assert [len(batch["y"]) for batch in source.scan(3)] == [3, 1]
    foreign = ArraySource({"y": np.array(Y, ">i8")}).read(0, 4)["y"]
    assert foreign.dtype.isnative
    assert foreign.tolist() == Y
    assert source.read(2, 2)["x"].shape == (0, 3)


def test_the_fingerprint_depends_on_values_names_and_types_and_on_nothing_else() -> None:
    fingerprint = ArraySource({"x": X, "y": Y}).fingerprint()
    same = ArraySource({"x": np.asfortranarray(X).astype(">f4"), "y": np.array(Y, ">i8")})
    assert same.fingerprint() == fingerprint
    changed = X.copy()
    changed[3, 2] += 1e-6 * changed[3, 2]
    for columns in ({"x": changed, "y": Y}, {"x": X.astype(float), "y": Y}, {"z": X, "y": Y}, {"x": X[::-1], "y": Y}):
        assert ArraySource(columns).fingerprint() != fingerprint


def test_the_same_records_have_the_same_fingerprint_from_memory_and_from_files(write_idx) -> None:
    images, labels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3), np.array([7, 8])
    in_memory = ArraySource({"image": images, "label": labels})
    assert write_idx(images, labels.astype(np.uint8)).fingerprint() == in_memory.fingerprint()


def test_a_limited_source_is_its_first_records() -> None:
    source = limit(ArraySource({"x": X, "y": Y}), 2)
    assert source.count == 2
    assert source.read(0, 2)["y"].tolist() == [3, 1]
    assert source.fingerprint() != limit(ArraySource({"x": X, "y": Y}), 3).fingerprint()
    with pytest.raises(DataError, match="there are 2"):
        source.read(0, 3)


def test_a_limit_beyond_the_end_or_none_keeps_everything() -> None:
    source = ArraySource({"y": Y})
    assert limit(source, 100).count == 4
    assert limit(source, 100).read(0, 4)["y"].tolist() == Y
    assert limit(source, None) is source
    with pytest.raises(DataError, match="limited to 0"):
        limit(source, 0)


def test_sources_survive_as_plain_data(write_idx) -> None:
    files = write_idx(X.reshape(4, 3, 1), np.array(Y, np.uint8))
    assert source_from(json.loads(json.dumps(source_data(files)))) == files
    for source in (ArraySource({"x": X, "y": Y}), limit(files, 3), limit(ArraySource({"y": Y}), 3)):
        rebuilt = source_from(msgspec.msgpack.decode(msgspec.msgpack.encode(source_data(source))))
        assert type(rebuilt) is type(source)
        assert rebuilt.fingerprint() == source.fingerprint()
    assert source_from(files) is files


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({}, "no columns"),
        ({"x": X, "y": [1]}, "'x' has 4, 'y' has 1"),
        ({"x": 3}, "'x' is int64 of shape \\(\\)"),
        ({"x": np.array([["a", "b"]])}, "'x' is <U1 of shape"),
        ({"x": np.array([None])}, "'x' is object"),
    ],
)
def test_what_are_no_columns_of_numbers_is_refused(columns, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        ArraySource(columns)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "given: nothing"),
        ({"type": "ganglion.data.parts.split:Split"}, "not a source"),
        ({"type": "ganglion.data.sources.idx:IdxSource", "images": "a"}, "IdxSource.*labels"),
        ({"type": "ganglion.data.sources.idx:IdxSource", "images": "a", "labels": "b", "folder": "c"}, "folder"),
        (
            {
                "type": "ganglion.data.sources.limited:LimitedSource",
                "source": {"type": "ganglion.data:Part"},
                "most": 1,
            },
            "Part",
        ),
    ],
)
def test_what_does_not_describe_a_source_is_refused(data, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        source_from(data)


def test_the_plain_data_of_files_is_what_a_person_would_write() -> None:
    source = LimitedSource(IdxSource(images="a", labels="b"), 5)
    assert source_data(source) == {
        "type": "ganglion.data.sources.limited:LimitedSource",
        "source": {"type": "ganglion.data.sources.idx:IdxSource", "images": "a", "labels": "b"},
        "most": 5,
    }
