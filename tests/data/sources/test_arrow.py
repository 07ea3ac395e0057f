from __future__ import annotations

from pathlib import Path

import fsspec
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.records.batch import Batch
from ganglion.data.source import source_data, source_from
from ganglion.data.sources.arrow import ArrowSource

TABLE = pa.table(
    {
        "number": np.arange(1000),
        "real": np.linspace(0, 1, 1000, dtype=np.float32),
        "word": [f"word {number}" for number in range(1000)],
        "bag": [list(range(number % 4)) for number in range(1000)],
    }
)


def write(path: Path, table: pa.Table, *, stream: bool = False, size: int = 300) -> None:
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=size)


def read(source: ArrowSource, size: int = 2**20) -> tuple[list[Batch], list[BadRecord]]:
    bad: list[BadRecord] = []
    return [batch for unit in source.units() for batch in source.read_unit(unit, size, bad.append)], bad


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [2**10, 2**30])
def test_files_and_streams_come_back_record_by_record(tmp_path: Path, stream: bool, size: int) -> None:
    write(tmp_path / "a.arrow", TABLE, stream=stream)
    source = ArrowSource(paths=str(tmp_path))
    assert [str(field) for field in source.schema] == ["number int64", "real float32", "word text", "bag int64 ..."]
    assert len(source.units()) == (1 if stream else 4)
    batches, bad = read(source, size)
    assert not bad
    found = Batch.join(batches)
    assert found.ids.tolist() == [row if stream else (row // 300) * 2**40 + row % 300 for row in range(len(TABLE))]
    assert found.columns["number"].tolist() == TABLE["number"].to_pylist()
    assert found.columns["real"].tolist() == TABLE["real"].to_pylist()
    assert found.columns["word"].to_pylist() == TABLE["word"].to_pylist()
    assert found.columns["bag"].to_pylist() == TABLE["bag"].to_pylist()


def test_columns_are_views_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", TABLE, size=1000)
    before = pa.total_allocated_bytes()
    batches, _bad = read(ArrowSource(paths=str(tmp_path), columns=("number", "real")), 2**30)
    assert batches[0].nbytes == 12_000
    assert pa.total_allocated_bytes() - before < 4_000
    assert not batches[0].columns["number"].flags.owndata


def test_nulls_and_nan_are_treated_as_asked(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", pa.table({"x": [1, None, 3], "y": [0.5, 1.5, float("nan")]}))
    source = ArrowSource(paths=str(tmp_path), required=("y",))
    batches, bad = read(source)
    assert batches[0].ids.tolist() == [0]
    assert [(each.id, each.reason) for each in bad] == [(1, "'x' is null"), (2, "'y' is NaN")]
    batches, _bad = read(ArrowSource(paths=str(tmp_path), fill={"x": -1}))
    assert batches[0].columns["x"].tolist() == [1, -1, 3]


def test_files_elsewhere_are_read_as_those_here(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", TABLE)
    with fsspec.open("memory://arrows/a.arrow", "wb") as file:
        file.write((tmp_path / "a.arrow").read_bytes())
    batches, _bad = read(ArrowSource(paths="memory://arrows/a.arrow"))
    assert Batch.join(batches).columns["word"].to_pylist() == TABLE["word"].to_pylist()


def test_a_schema_that_changes_between_files_is_named(tmp_path: Path) -> None:
    write(tmp_path / "1.arrow", pa.table({"x": [1]}))
    write(tmp_path / "2.arrow", pa.table({"x": ["a"]}))
    with pytest.raises(DataError, match=r"'x' changes between files: .*1\.arrow has x int64, .*2\.arrow has x text"):
        ArrowSource(paths=str(tmp_path)).units()


def test_what_is_neither_file_nor_stream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    for content in (b"", b"ARROW1\0\0", b"nonsense" * 50):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.arrow is no Arrow IPC file and no stream"):
            _ = ArrowSource(paths=str(path)).schema


@pytest.mark.parametrize("stream", [False, True])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "a.arrow"
    write(path, TABLE, stream=stream)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"a\.arrow"):
        read(ArrowSource(paths=str(path)))


def test_the_source_survives_as_plain_data(tmp_path: Path) -> None:
    source = ArrowSource(paths=str(tmp_path), columns=("x",), fill={"x": 1})
    assert source_from(msgspec.json.decode(msgspec.json.encode(source_data(source)))) == source


@pytest.mark.parametrize("stream", [False, True])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_whatever_happens_to_the_bytes_they_are_read_or_refused(
    tmp_path: Path, changes: list[tuple[float, bytes]], stream: bool
) -> None:
    path = tmp_path / "a.arrow"
    write(path, TABLE.slice(0, 50), stream=stream, size=20)
    data = bytearray(path.read_bytes())
    for where, changed in changes:
        at = int(where * (len(data) - len(changed)))
        data[at : at + len(changed)] = changed
    path.write_bytes(data)
    try:
        batches, bad = read(ArrowSource(paths=str(path)))
    except DataError:
        return
    assert sum(map(len, batches)) + len(bad) <= 50
