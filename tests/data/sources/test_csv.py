from __future__ import annotations

import bz2
import gzip
import lzma
import math

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_contract import read_all, read_unit

from ganglion.core.errors import DataError
from ganglion.data import CsvSource, Field
from ganglion.data.records.schema import describe
from ganglion.data.sources.csv_rows import CsvRows

HEADER = b"id,x,label\n"


def bad_of(source: CsvSource) -> list[tuple[int, str, bytes]]:
    return [(bad.offset, bad.reason, bad.payload) for bad in read_all(source)[1].values()]


def test_types_are_found_and_shown(put) -> None:
    path = put("a.csv", b"i,f,b,t,day,none\n1,1.5,true,x,2024-01-01,\n2,,false,,2024-01-02,\n")
    source = CsvSource(path)
    assert describe(source.schema) == "i int64, f float64, b bool, t text, day text, none float64"
    columns = source.read(0, 2)
    assert columns["t"].to_pylist() == ["x", ""]
    assert columns["day"].to_pylist() == ["2024-01-01", "2024-01-02"]
    assert math.isnan(columns["f"][1])
    assert math.isnan(columns["none"][0])


def test_a_few_values_of_dirt_do_not_make_a_column_of_numbers_text(put) -> None:
    rows = [f"{i},{i}.5\n" for i in range(200)]
    rows[70] = "?,n/a!\n"
    source = CsvSource(put("a.csv", ("i,f\n" + "".join(rows)).encode()))
    assert describe(source.schema) == "i int64, f float64"
    ((offset, reason, payload),) = bad_of(source)
    assert payload == b"?,n/a!"
    assert offset == 4 + sum(map(len, rows[:70]))
    assert "int64" in reason


def test_fields_can_be_named_with_their_types(put) -> None:
    path = put("a.csv", b"i,f,t\n1,1.5,x\n300,2,y\n")
    source = CsvSource(path, fields=(Field("f", "float32"), Field("i", "uint8")))
    columns = source.read(0, 1)
    assert list(columns) == ["f", "i"]
    assert columns["f"].dtype == np.float32
    assert [bad[2] for bad in bad_of(source)] == [b"300,2,y"]
    with pytest.raises(DataError, match=r"no field 'g'; it has i, f, t"):
        read_all(CsvSource(path, fields=(Field("g", "int64"),)))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,2", "Expected 3 columns, got 2"),
        (b"1,2,3,4", "Expected 3 columns, got 4"),
        (b"one,2,3", "invalid value 'one'"),
        (b"1.5,2,3", "invalid value '1.5'"),
        (b",2,3", "'id' has no value"),
        (b"1,\xff,3", "is not utf-8"),
        (b"1,2,nan", "'label' is NaN"),
        (b"1,2,", "'label' is NaN"),
        (b'1,"2,3', ""),
    ],
)
def test_a_bad_row_is_set_aside_with_its_place_and_the_others_go_on(put, row: bytes, reason: str) -> None:
    rows = [b"%d,%d.5,%d\n" % (i, i, i) for i in range(50)]
    rows[20] = row + b"\n"
    fields = (Field("id", "int64"), Field("x", "float64"), Field("label", "float32"))
    source = CsvSource(put("a.csv", HEADER + b"".join(rows)), fields=fields, required=("label",))
    ((offset, found, payload),) = bad_of(source)
    assert (offset, payload) == (len(HEADER) + sum(map(len, rows[:20])), row)
    assert reason in found
    ids = [row[0] for row in read_all(source)[0].values()]
    assert ids == [str(i) for i in range(50) if i != 20]
    with pytest.raises(DataError, match="set aside"):
        source.read(0, 50)


def test_the_first_byte_that_is_no_text_is_named(put) -> None:
    source = CsvSource(put("a.csv", b"a,b\n1,x\n2,caf\xe9\n"))
    ((_, reason, _),) = bad_of(source)
    assert reason == "byte 13 is not utf-8"
    assert CsvSource(source.paths, encoding="latin-1").read(0, 2)["b"].to_pylist() == ["x", "café"]


def test_values_may_hold_newlines_and_quotes_wherever_the_file_is_cut(put, small_blocks) -> None:
    texts = [f'{"line" * (i % 50)}\n"{i}",\r\n' for i in range(200)]
    rows = "".join('"{}",{}\n'.format(text.replace('"', '""'), i) for i, text in enumerate(texts))
    source = CsvSource(put("a.csv", ("t,i\n" + rows).encode()))
    assert len(source.units()) > 5
    records, bad = read_all(source)
    assert not bad
    assert list(records.values()) == [(repr(text), str(i)) for i, text in enumerate(texts)]


def test_a_quote_that_is_never_closed_costs_its_row_alone(put, small_blocks) -> None:
    rows = [b"%d,text %d\n" % (i, i) for i in range(300)]
    rows[100] = b'100,"never closed\n'
    source = CsvSource(put("a.csv", b"i,t\n" + b"".join(rows)))
    records, bad = read_all(source)
    assert [record.payload for record in bad.values()] == [b'100,"never closed']
    assert len(records) == 299


def test_a_row_that_is_too_long_is_set_aside_and_the_next_is_read(put, small_blocks) -> None:
    source = CsvSource(put("a.csv", b"i,t\n1,a\n2," + b"x" * 5000 + b"\n3,b\n4,c\n"))
    records, _ = read_all(source)
    assert [row[0] for row in records.values()] == ["1", "3", "4"]
    ((offset, reason, payload),) = bad_of(source)
    assert (offset, payload[:4]) == (8, b"2,xx")
    assert "no record ends within" in reason


def test_a_row_longer_than_a_task_of_arrow_is_read(put) -> None:
    long = "x" * (3 * 2**20)
    source = CsvSource(put("a.csv", f"i,t\n1,a\n2,{long}\n3,b\n".encode()))
    assert source.read(0, 3)["t"].to_pylist() == ["a", long, "b"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, "zstd"])
def test_compressed_files_are_read_and_what_comes_before_a_truncation_too(put, compress) -> None:
    rows = b"".join(b"%d,%d\n" % (i, i * i % 977) for i in range(100_000))
    compress = pa.Codec("zstd").compress if compress == "zstd" else compress
    packed = bytes(compress(b"i,j\n" + rows))
    assert len(read_all(CsvSource(put("a.csv.gz", packed)))[0]) == 100_000
    source = CsvSource(put("cut.csv.gz", packed[: len(packed) // 2]))
    if compress in (gzip.compress, lzma.compress):
        records, _ = read_all(source)
        assert 1_000 < len(records) < 99_999
        assert [row[0] for row in records.values()] == [str(i) for i in range(len(records))]
        ((offset, reason, _),) = bad_of(source)
        assert "truncated" in reason
        assert offset > 1_000


def test_what_comes_before_a_truncation_is_read_where_it_was_buffered_as_a_whole(put) -> None:
    """Of a short file all is, once it has been looked at."""
    packed = gzip.compress(b"i,j\n" + b"".join(b"%d,%d\n" % (i, i * i % 977) for i in range(2_000)))
    source = CsvSource(put("cut.csv.gz", packed[: len(packed) // 2]))
    records, _ = read_all(source)
    assert len(records) > 500
    assert [row[0] for row in records.values()] == [str(i) for i in range(len(records))]
    ((_, reason, _),) = bad_of(source)
    assert "truncated" in reason


def test_a_damaged_compressed_file_is_refused_with_the_place(put) -> None:
    packed = bytearray(gzip.compress(b"i\n" + b"".join(b"%d\n" % i for i in range(10_000))))
    packed[-6] ^= 1
    with pytest.raises(DataError, match=r"a.csv.gz: at byte \d+ of the decompressed content: .*gzip.*CRC"):
        read_all(CsvSource(put("a.csv.gz", bytes(packed))))


def test_an_empty_file_is_named_and_the_others_are_read(put, tmp_path) -> None:
    put("a.csv", b"")
    put("b.csv", b"i\n1\n")
    records, bad = read_all(CsvSource(str(tmp_path)))
    assert len(records) == 1
    ((record,),) = [list(bad.values())]
    assert record.path.endswith("a.csv")
    assert "empty" in record.reason
    with pytest.raises(DataError, match=r"a\.csv: the file is empty"):
        _ = CsvSource(str(tmp_path / "a.csv")).schema


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (b"a,c\n1,2\n", r"b\.csv has no column 'b'.*a, c"),
        (b"a,b,c\n1,2,3\n", r"b\.csv has the column 'c', which the first file does not"),
        (b"a,a\n1,2\n", r"b\.csv names a column twice"),
        (b"\xff\xfea\0", r"b\.csv is UTF-16"),
        (b"a,\xe9\n1,2\n", r"b\.csv: at byte 2: not utf-8"),
        (b"\n\n", r"b\.csv has no header"),
    ],
)
def test_a_file_with_other_columns_is_refused_by_name(put, tmp_path, other: bytes, problem: str) -> None:
    put("a.csv", b"a,b\n1,2\n")
    put("b.csv", other)
    with pytest.raises(DataError, match=problem):
        read_all(CsvSource(str(tmp_path)))


def test_columns_in_another_order_and_the_mark_of_utf8_make_no_difference(put, tmp_path) -> None:
    put("a.csv", b"a,b\n1,x\n")
    put("b.csv", b"\xef\xbb\xbfb,a\r\ny,2\r\n")
    columns = CsvSource(str(tmp_path)).read(0, 2)
    assert columns["a"].tolist() == [1, 2]
    assert columns["b"].to_pylist() == ["x", "y"]


def test_files_without_a_header_and_with_other_signs(put) -> None:
    path = put("a.tsv", b"1\t'a\tb'\n2\tc\n")
    fields = (Field("n", "int64"), Field("t", "text"))
    source = CsvSource(path, fields=fields, header=False, delimiter="\t", quote="'")
    assert source.read(0, 2)["t"].to_pylist() == ["a\tb", "c"]
    inferred = CsvSource(path, header=False, delimiter="\t", quote="'")
    assert describe(inferred.schema) == "f0 int64, f1 text"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"delimiter": ",,"}, "delimiter ',,'"),
        ({"quote": "\n"}, "quote"),
        ({"encoding": "utf-16"}, "utf-16 is not an extension of ASCII"),
        ({"encoding": "utf-7000"}, "utf-7000' is unknown"),
        ({"fields": (Field("a", "int64", (2,)),)}, "a int64 2"),
        ({"fields": (Field("a", "int64"),), "required": ("b",)}, "'b' is required"),
    ],
)
def test_options_that_cannot_be_are_refused(options, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        CsvSource("a.csv", **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(codec="utf-8"), max_size=30)), max_size=60
    )
)
def test_whatever_arrow_writes_is_read_back(put, small_blocks, rows) -> None:
    texts = [text.replace("\r", " ") for _, text in rows]
    table = pa.table({"n": pa.array([number for number, _ in rows], pa.int64()), "t": pa.array(texts, pa.string())})
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    fields = (Field("n", "int64"), Field("t", "text"))
    source = CsvSource(put("a.csv", sink.getvalue().to_pybytes()), fields=fields)
    found = [row for unit in source.units() for row in read_unit(source, unit, 50)[0].values()]
    assert found == [(str(number), repr(text)) for (number, _), text in zip(rows, texts, strict=True)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.just("1,2.5,7,true,x"),
            st.lists(
                st.sampled_from(
                    [
                        "1",
                        "-2",
                        " 3 ",
                        "300",
                        "2.5",
                        "1e3",
                        "1.2.3",
                        "n/a",
                        "NA",
                        "",
                        "x",
                        "nan",
                        "ü",
                        "true",
                        "1\udcff",
                    ]
                ),
                min_size=3,
                max_size=6,
            ).map(",".join),
            st.just('"1",2,3,false,"a,b"'),
            st.just("1,2.5,7,true,\udcff"),  # is no text, which matters only where the last column is read
        ),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(0, 2),
)
def test_what_is_found_in_many_rows_at_once_is_what_each_row_says_alone(put, monkeypatch, rows, end, unread) -> None:
    fields = (Field("t", "text"), Field("f", "float32"), Field("b", "bool"), Field("u", "uint8"), Field("i", "int64"))
    fields = fields[unread:]
    rows = ["1,2.5,7,true,x"] * 100 + rows
    content = "i,f,u,b,t" + end + end.join(rows) + end
    source = CsvSource(put("a.csv", content.encode(errors="surrogateescape")), fields=fields)
    records, bad = read_all(source)
    with monkeypatch.context() as patched:
        patched.setattr(CsvRows, "suspects", lambda self, data, spans: {})
        alone = read_all(source)
    assert (records, bad) == alone
