from __future__ import annotations

import gzip

from source_contract import read_all

from ganglion.data import TextSource


def test_every_line_is_a_record_without_its_end(put) -> None:
    source = TextSource(put("a.txt", "one\r\n\nthree\rhalf\nfünf".encode()))
    assert source.read(0, 4)["text"].to_pylist() == ["one", "", "three\rhalf", "fünf"]


def test_a_line_that_is_no_text_is_set_aside_with_its_place(put) -> None:
    source = TextSource(put("a.txt", b"one\ntw\xf0o\nthree\n"), name="line")
    records, bad = read_all(source)
    assert list(records.values()) == [("'one'",), ("'three'",)]
    ((record,),) = [list(bad.values())]
    assert (record.offset, record.payload, record.reason) == (4, b"tw\xf0o", "byte 6 is not utf-8")


def test_a_line_that_is_cut_off_by_a_truncated_file_is_no_record(put) -> None:
    lines = [b"%06d some text that is as long as this\n" % i for i in range(50_000)]
    packed = gzip.compress(b"".join(lines))
    records, bad = read_all(TextSource(put("a.txt.gz", packed[: len(packed) // 3])))
    assert 0 < len(records) < 50_000
    assert [row[0] for row in records.values()] == [repr(line.decode().rstrip("\n")) for line in lines[: len(records)]]
    assert ["truncated" in record.reason for record in bad.values()] == [True]


def test_large_files_are_divided_at_lines(put, small_blocks) -> None:
    lines = [b"%d" % i * (i % 30) for i in range(1000)]
    source = TextSource(put("a.txt", b"\n".join(lines)))
    assert len(source.units()) > 10
    assert [row[0] for row in read_all(source)[0].values()] == [repr(line.decode()) for line in lines]
