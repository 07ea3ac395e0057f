from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.records.batch import Batch
from ganglion.data.source import source_data, source_from
from ganglion.data.sources import parquet_row_group
from ganglion.data.sources.parquet import ParquetSource

COUNT = 6000


def read(source: ParquetSource, size: int = 2**20) -> tuple[list[Batch], list[BadRecord]]:
    bad: list[BadRecord] = []
    return [batch for unit in source.units() for batch in source.read_unit(unit, size, bad.append)], bad


def write(path: Path, table: pa.Table, **options) -> None:
    pq.write_table(
        table, path, **{"write_page_checksum": True, "data_page_size": 4096, "row_group_size": 2500} | options
    )


def table(count: int = COUNT) -> pa.Table:
    values = np.random.default_rng(0)
    gone = values.random(count) < 0.1
    return pa.table(
        {
            "real": pa.array(values.standard_normal(count), mask=gone),
            "number": np.arange(count) * 7919,
            "holey": pa.array(np.arange(count, dtype=np.int32), mask=values.random(count) < 0.01),
            "flag": values.random(count) < 0.5,
            "word": [f"word {number % 50}" for number in range(count)],
            "bag": [list(range(number % 5)) for number in range(count)],
            "point": pa.FixedSizeListArray.from_arrays(values.standard_normal(count * 2).astype(np.float32), 2),
        }
    )


def assert_same(found: Batch, expected: pa.Table, group: int = 2500) -> None:
    """Every record is the one that its id says."""
    rows = (found.ids >> 40) * group + (found.ids & 2**40 - 1)
    for name, column in found.columns.items():
        right = expected[name].combine_chunks().take(pa.array(rows))
        if not isinstance(column, np.ndarray):
            assert column.equals(right.cast(column.type)), name
        elif column.ndim > 1:
            assert (column.reshape(-1) == right.flatten().to_numpy()).all(), name
        else:
            kept = ~right.is_null().to_numpy(zero_copy_only=False)
            assert (column[kept] == right.drop_null().to_numpy(zero_copy_only=False)).all(), name
            assert np.isnan(column[~kept]).all(), name


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_table_comes_back_record_by_record_whatever_the_size_of_batches(
    tmp_path: Path, version: str, compression: str
) -> None:
    written = table()
    write(tmp_path / "a.parquet", written, data_page_version=version, compression=compression)
    source = ParquetSource(paths=str(tmp_path))
    assert [str(field) for field in source.schema] == [
        "real float64",
        "number int64",
        "holey int32",
        "flag bool",
        "word text",
        "bag int64 ...",
        "point float32 2",
    ]
    assert [unit.records for unit in source.units()] == [None, None, None]  # a null may cost a record
    known = msgspec.structs.replace(source, columns=("number", "real", "word"))
    assert [unit.records for unit in known.units()] == [2500, 2500, 1000]
    nulls = written["holey"].null_count
    for size in (2**14, 2**18, 2**30):
        batches, bad = read(source, size)
        found = Batch.join(batches)
        assert (len(found), len(bad)) == (COUNT - nulls, nulls)
        assert {each.reason for each in bad} == {"'holey' is null"}
        assert {each.id for each in bad}.isdisjoint(found.ids.tolist())
        assert_same(found, written)


def test_what_stands_for_nulls_and_where_none_may_be(tmp_path: Path) -> None:
    columns = {
        "real": [1.0, None, 3.0],
        "word": ["a", None, "c"],
        "bag": [[1], None, [2, 3]],
        "pair": pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2)),
    }
    write(tmp_path / "a.parquet", pa.table(columns))
    source = ParquetSource(paths=str(tmp_path))
    batches, bad = read(source)
    assert batches[0].ids.tolist() == [0]
    assert [(each.id, each.reason) for each in bad] == [(1, "'word' is null"), (2, "'pair' is null")]
    filled = msgspec.structs.replace(source, fill={"word": "?", "bag": [9], "pair": [7, 8], "real": 0})
    batches, bad = read(filled)
    assert not bad
    assert batches[0].columns["real"].tolist() == [1, 0, 3]
    assert batches[0].columns["word"].to_pylist() == ["a", "?", "c"]
    assert batches[0].columns["bag"].to_pylist() == [[1], [9], [2, 3]]
    assert batches[0].columns["pair"].tolist() == [[1, 2], [7, 8], [7, 8]]
    required = msgspec.structs.replace(filled, fill={"word": "?", "bag": [], "pair": 0}, required=("real",))
    assert [(each.id, each.reason) for each in read(required)[1]] == [(1, "'real' is NaN")]


def test_times_dictionaries_halves_and_bytes_are_read_as_what_they_hold(tmp_path: Path) -> None:
    columns = {
        "when": pa.array([1_600_000_000_000_000, 0], pa.timestamp("us", "UTC")),
        "day": pa.array([3, 4], pa.date32()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "half": np.array([0.5, 2], np.float16),
        "blob": pa.array([b"ab", b"cd"], pa.binary(2)),
        "grid": pa.array([[[1, 2]], [[3, 4]]], pa.list_(pa.list_(pa.int8(), 2), 1)),
    }
    write(tmp_path / "a.parquet", pa.table(columns))
    source = ParquetSource(paths=str(tmp_path))
    assert [str(field) for field in source.schema] == [
        "when int64",
        "day int64",
        "kind text",
        "half float16",
        "blob bytes",
        "grid int8 1x2",
    ]
    found = read(source)[0][0].columns
    assert found["when"].tolist() == [1_600_000_000_000_000, 0]
    assert found["day"].tolist() == [3, 4]
    assert found["kind"].to_pylist() == ["x", "y"]
    assert found["half"].tolist() == [0.5, 2]
    assert found["blob"].to_pylist() == [b"ab", b"cd"]
    assert found["grid"].tolist() == [[[1, 2]], [[3, 4]]]


def test_the_records_of_a_corrupt_page_are_set_aside_and_all_others_are_read(tmp_path: Path) -> None:
    written = table().drop(["bag", "point", "holey"])
    path = tmp_path / "a.parquet"
    write(path, written, use_dictionary=False, compression="none", max_rows_per_page=500)
    data = bytearray(path.read_bytes())
    at = data.index(np.arange(600, 620).astype("<i8").__mul__(7919).tobytes())
    data[at + 3] ^= 0x40
    path.write_bytes(data)
    for size in (2**13, 2**30):
        batches, bad = read(ParquetSource(paths=str(tmp_path)), size)
        found = Batch.join(batches)
        lost = [each.id for each in bad]
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert 600 in lost
        assert len(lost) <= 512
        assert sorted([*found.ids.tolist(), *lost]) == [
            unit * 2**40 + row for unit, rows in enumerate((2500, 2500, 1000)) for row in range(rows)
        ]
        assert_same(found, written)
        assert {(each.path, each.reason) for each in bad} == {
            (str(path), f"'number': its page at byte {bad[0].offset} does not match its checksum")
        }
        assert bad[0].offset < at
    unverified, none = read(msgspec.structs.replace(ParquetSource(paths=str(tmp_path)), verify=False))
    assert not none
    with pytest.raises(AssertionError, match="number"):
        assert_same(Batch.join(unverified), written)


@pytest.mark.parametrize("piece", [100, 4096, 2**18])
def test_each_damaged_page_is_found_whatever_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(parquet_row_group, "_PIECE", piece)
    written = pa.table({"number": np.arange(6000)})
    path = tmp_path / "a.parquet"
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    write(path, written, row_group_size=6000, max_rows_per_page=100, **plain)
    source = ParquetSource(paths=str(path))
    assert_same(Batch.join(read(source)[0]), written, 6000)
    data = bytearray(path.read_bytes())
    hit = [0, 7, 8, 30, 59]
    for page in hit:
        first = data.index(np.arange(page * 100, page * 100 + 100).tobytes())
        data[first + (0 if page % 2 else 799)] ^= 1  # its first byte or its last one
    path.write_bytes(data)
    for size in (2**10, 2**24):
        batches, bad = read(source, size)
        assert [each.id for each in bad] == [row for page in hit for row in range(page * 100, page * 100 + 100)]
        assert_same(Batch.join(batches), written, 6000)


def test_a_page_that_cannot_be_decoded_costs_its_records_where_the_file_has_no_checksums(tmp_path: Path) -> None:
    written = table().select(["number", "word"])
    path = tmp_path / "a.parquet"
    write(path, written, use_dictionary=False, write_page_checksum=False, compression="zstd", max_rows_per_page=500)
    data = bytearray(path.read_bytes())
    frame = data.index(b"\x28\xb5\x2f\xfd", 3000)  # the beginning of a compressed page
    data[frame] ^= 0xFF
    path.write_bytes(data)
    batches, bad = read(ParquetSource(paths=str(tmp_path)), 2**14)
    assert 0 < len(bad) <= 512
    assert "cannot be decoded" in bad[0].reason
    assert len(bad) + sum(map(len, batches)) == COUNT
    assert_same(Batch.join(batches), written)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_no_flipped_bit_in_the_pages_changes_a_record(tmp_path: Path, version: str) -> None:
    written = table(900)
    path = tmp_path / "a.parquet"
    write(path, written, row_group_size=300, data_page_version=version, data_page_size=512)
    data = path.read_bytes()
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    source = ParquetSource(paths=str(tmp_path), fill={"holey": -1})
    expected = written.set_column(2, "holey", written["holey"].fill_null(-1))
    assert_same(Batch.join(read(source)[0]), expected, 300)
    bits = random.Random(int(version[0]))
    noticed = 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[bits.randrange(4, end)] ^= 1 << bits.randrange(8)
        path.write_bytes(flipped)
        batches, bad = read(source, 2**13)
        noticed += bool(bad)
        assert sum(map(len, batches)) + len(bad) == 900
        if batches:
            assert_same(Batch.join(batches), expected, 300)
    assert noticed > 50  # the others are in what headers say of the least and the greatest value


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"x": [1.5], "y": ["a"]}, r"'x' changes between files: .*1\.parquet has x int64, .*2\.parquet has x float64"),
        ({"x": [1]}, r"2\.parquet has no column 'y', which .*1\.parquet has"),
        ({"x": [1], "y": ["a"], "z": [1]}, r"2\.parquet has a column 'z', which .*1\.parquet has not"),
    ],
)
def test_a_schema_that_changes_between_files_is_named(tmp_path: Path, second: dict, problem: str) -> None:
    write(tmp_path / "1.parquet", pa.table({"x": [1], "y": ["a"]}))
    write(tmp_path / "2.parquet", pa.table(second))
    with pytest.raises(DataError, match=problem):
        ParquetSource(paths=str(tmp_path)).units()


def test_columns_are_chosen_and_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, pa.table({"x": [1, 2], "y": ["a", "b"], "odd": [{"a": 1}, {"a": 2}]}))
    chosen = ParquetSource(paths=str(path), columns=("y", "x"))
    assert list(read(chosen)[0][0].columns) == ["y", "x"]
    for options, problem in (
        ({}, "'odd' holds struct"),
        ({"columns": ("z",)}, "no column 'z'; it has x, y, odd"),
        ({"columns": ("x",), "fill": {"y": 1}}, "'y' was given; the columns are x"),
        ({"columns": ("x",), "fill": {"x": "many"}}, "'many' cannot fill nulls of x int64"),
        ({"columns": ("x",), "required": ("y",)}, "'y' is required; there are x"),
    ):
        with pytest.raises(DataError, match=problem):
            _ = ParquetSource(paths=str(path), **options).schema


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for content in (b"", b"PAR1", b"nonsense" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
            _ = ParquetSource(paths=str(path)).schema


def test_a_table_without_records_has_a_schema_and_no_batches(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(5).slice(0, 0))
    assert len(ParquetSource(paths=str(tmp_path)).schema) == 7
    assert read(ParquetSource(paths=str(tmp_path))) == ([], [])


def test_files_elsewhere_are_read_as_those_here(tmp_path: Path) -> None:
    written = table().drop(["holey"])
    write(tmp_path / "a.parquet", written)
    with fsspec.open("memory://tables/a.parquet", "wb") as file:
        file.write((tmp_path / "a.parquet").read_bytes())
    batches, bad = read(ParquetSource(paths="memory://tables/", columns=("word", "number")))
    assert not bad
    assert_same(Batch.join(batches), written.select(["word", "number"]))


def test_a_reader_that_is_left_early_leaves_no_thread_and_no_file_open(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table())
    source = ParquetSource(paths=str(tmp_path), columns=("real",))
    unit = source.units()[0]
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        reading = source.read_unit(unit, 2**12, lambda record: None)
        next(reading)
        reading.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


READ_IN_LITTLE_MEMORY = """
import sys, threading
from ganglion.data.sources import parquet_row_group
from ganglion.data.sources.parquet import ParquetSource

def size():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))

source = ParquetSource(sys.argv[1])
units = source.units()
peak = before = size()
ended = threading.Event()

def watch():
    global peak
    while not ended.wait(0.002):
        peak = max(peak, size())

thread = threading.Thread(target=watch)
thread.start()
count = sum(len(batch) for unit in units for batch in source.read_unit(unit, 2**21, print))
ended.set()
thread.join()
print(count, peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the proportional set size is Linux's")
def test_memory_is_that_of_batches_and_pages_even_where_the_file_is_one_row_group(tmp_path: Path) -> None:
    rows, columns = 2**20, 24
    values = np.random.default_rng(0)
    wide = pa.table({f"c{number}": values.standard_normal(rows, np.float32) for number in range(columns)})
    options = {"row_group_size": rows, "use_dictionary": False, "compression": "none", "data_page_size": 2**18}
    write(tmp_path / "a.parquet", wide, **options)
    command = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, growth = map(int, done.stdout.split())
    assert count == rows
    assert growth < 1.1 * 2**26, f"{growth / 2**20:.0f} MiB for batches of 2 MiB from a row group of 96 MiB"


def test_the_source_survives_as_plain_data(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(10))
    source = ParquetSource(paths=(str(tmp_path),), columns=("real",), fill={"real": 0.5})
    assert source_from(msgspec.json.decode(msgspec.json.encode(source_data(source)))) == source
    assert source.fingerprint() != msgspec.structs.replace(source, fill={}).fingerprint()


SMALL = table(200).drop(["holey"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "a.parquet"
    write(path, SMALL, row_group_size=100, data_page_size=256, compression="none")
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4),
    st.floats(0, 1) | st.just(1.0),
)
def test_whatever_happens_to_the_bytes_no_record_is_read_that_was_not_written(
    small: Path, changes: list[tuple[float, bytes]], kept: float
) -> None:
    data = bytearray(small.read_bytes())
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for where, changed in changes:
        at = 4 + int(where * (end - 4 - len(changed)))
        data[at : at + len(changed)] = changed
    path = small.with_name("b.parquet")
    path.write_bytes(data[: int(kept * len(data))] if kept < 0.5 else data)
    try:
        batches, bad = read(ParquetSource(paths=str(path)), 2**11)
    except DataError:
        return
    assert sum(map(len, batches)) + len(bad) == 200
    if batches:
        assert_same(Batch.join(batches), SMALL, 100)
