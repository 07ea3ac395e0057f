from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.dataset import gather as gather_module
from ganglion.data.dataset.buffers import ALIGNMENT
from ganglion.data.dataset.gather import Gather
from ganglion.data.dataset.record_reader import RecordReader, StoredFile

COUNT = 1000
COLUMNS = {
    "image": np.random.default_rng(1).integers(0, 256, (COUNT, 5, 7), np.uint8),
    "flag": np.arange(COUNT) % 3 == 0,
    "number": np.arange(COUNT, dtype=np.int64),
    "weight": np.linspace(0, 1, COUNT, dtype=np.float32),
}
TEXT = pa.array([f"record {number}" for number in range(COUNT)])


def cut(pieces: int) -> list[dict]:
    ends = np.linspace(0, COUNT, pieces + 1).astype(int)
    columns = {**COLUMNS, "text": TEXT}
    return [{name: column[a:b] for name, column in columns.items()} for a, b in pairwise(ends)]


@given(pieces=st.sampled_from([1, 2, 7, 400]), records=st.lists(st.integers(0, COUNT - 1), max_size=700))
def test_records_come_in_the_order_asked_for_from_any_number_of_segments(pieces: int, records: list[int]) -> None:
    wanted = np.array(records, np.int64)
    found = Gather(cut(pieces)).take(wanted)
    assert list(found) == [*COLUMNS, "text"]
    for name, column in COLUMNS.items():
        assert found[name].dtype == column.dtype
        assert (found[name] == column[wanted]).all()
        assert not records or found[name].ctypes.data % ALIGNMENT == 0
    assert found["text"].to_pylist() == [f"record {number}" for number in records]


@pytest.mark.parametrize("pieces", [1, 3])
def test_values_are_rewritten_on_the_way_into_given_memory(pieces: int) -> None:
    records = np.random.default_rng(2).permutation(COUNT)
    out = {"image": np.empty((COUNT, 5, 7), np.float32), "number": np.empty(COUNT, np.int64)}

    def halve(values: np.ndarray, target: np.ndarray) -> None:
        np.multiply(values, np.float32(0.5), out=target)

    Gather(cut(pieces)).into(records, out, {"image": halve})
    assert (out["image"] == COLUMNS["image"][records].astype(np.float32) / 2).all()
    assert (out["number"] == records).all()


@pytest.mark.parametrize("pieces", [1, 3])
def test_rewriting_goes_piece_by_piece_and_leaves_numpy_as_it_was(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_module, "PIECE", 35 * 300)
    monkeypatch.setattr(gather_module, "GROUPED_PIECE", 35 * 300)
    records = np.random.default_rng(3).permutation(COUNT)
    out = {"image": np.empty((COUNT, 5, 7), np.float32)}
    sizes: list[int] = []

    def halve(values: np.ndarray, target: np.ndarray) -> None:
        sizes.append(len(values))
        np.multiply(values, np.float32(0.5), out=target)

    def fail(values: np.ndarray, target: np.ndarray) -> None:
        raise ValueError("not these")

    before = np.setbufsize(4096)
    try:
        Gather(cut(pieces)).into(records, out, {"image": halve})
        with pytest.raises(ValueError, match="not these"):
            Gather(cut(pieces)).into(records, out, {"image": fail})
    finally:
        after = np.setbufsize(before)
    assert sizes == [250] * 4
    assert (out["image"] == COLUMNS["image"][records].astype(np.float32) / 2).all()
    assert after == 4096


def test_what_is_not_there_is_refused() -> None:
    gather = Gather(cut(2))
    for records in ([-1], [COUNT], [0, 3, 10**9]):
        with pytest.raises(DataError, match="there are 0 to 999"):
            gather.take(np.array(records))
    with pytest.raises(DataError, match="'colour'"):
        gather.into(np.array([1]), {"colour": np.empty(1)})
    with pytest.raises(DataError, match="'colour'"):
        gather.take(np.array([1]), ["colour"])
    with pytest.raises(DataError, match="no segment"):
        Gather([])


@given(records=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=60), run=st.integers(1, 30))
def test_records_that_are_read_are_those_that_are_mapped(tmp_path_factory, records: list[int], run: int) -> None:
    folder = tmp_path_factory.mktemp("stored")
    files, segments = [], cut(3)
    for number, segment in enumerate(segments):
        path = folder / str(number)
        path.write_bytes(b"x" * 100 + segment["image"].tobytes() + segment["number"].tobytes())
        files.append(StoredFile(path, {"image": (100,), "number": (100 + segment["image"].nbytes,)}))
    wanted = np.concatenate([np.arange(record, min(record + run, COUNT)) for record in records])
    names = ("image", "number")
    reading = Gather([{name: segment[name] for name in names} for segment in segments], files=files, resident=0)
    found = reading.take(wanted)
    for name in names:
        assert (found[name] == COLUMNS[name][wanted]).all()


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(80))
    reader = RecordReader([StoredFile(path, {"number": (0,)})], np.array([0, 20]))
    out = np.empty(1, np.int64)
    reader.into("number", np.array([9]), out)
    with pytest.raises(DataError, match="short ends before byte 80"):
        reader.into("number", np.array([10]), out)
