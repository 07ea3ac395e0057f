from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import fsspec
import pytest
from source_contract import read_all

from ganglion.core.errors import DataError, OutageError
from ganglion.data import CsvSource, Retry, TextSource
from ganglion.data.files.access import list_files, open_file

QUICK = Retry(patience=0.3, timeout=0.2, first_delay=0.01, most_delay=0.05)
BODY = b"".join(b"line %06d\n" % i for i in range(400_000))  # more than the buffers of a connection hold


def names(*patterns: str, **options) -> list[str]:
    return [Path(file.path).name for file in list_files(patterns, **options)]


def test_files_folders_and_patterns_are_found_in_order_and_once(put, tmp_path) -> None:
    for name in ("b.csv", "a.csv", "deep/c.csv", "deep/.hidden/d.csv", "_SUCCESS", ".x.csv", "notes.md", "odd[1].csv"):
        put(name, b"x")
    folder = str(tmp_path)
    assert names(folder, suffixes=(".csv",)) == ["a.csv", "b.csv", "c.csv", "odd[1].csv"]
    assert names(f"{folder}/*.csv", f"{folder}/a.csv", f"file://{folder}/b.csv") == ["a.csv", "b.csv", "odd[1].csv"]
    assert names(f"{folder}/**/*.csv") == ["a.csv", "b.csv", "c.csv", "odd[1].csv"]
    assert names(f"{folder}/odd[1].csv") == ["odd[1].csv"]
    for missing in (f"{folder}/absent.csv", f"{folder}/*.parquet", "memory://nothing/*"):
        with pytest.raises(DataError, match="matches no file") as refusal:
            list_files(missing)
        assert missing in str(refusal.value)
    with pytest.raises(DataError, match=r"matches no file that ends in \.bin"):
        list_files(folder, (".bin",))


def test_a_fingerprint_is_of_the_content(put) -> None:
    path = put("a", b"one")
    (first,) = list_files(path)
    fingerprint = first.fingerprint
    os.utime(path)
    assert list_files(path)[0].version != first.version
    assert list_files(path)[0].fingerprint == fingerprint
    put("a", b"two")
    os.utime(path, (1, 1))
    assert list_files(path)[0].fingerprint != fingerprint


def test_files_in_an_object_store(put) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/in/a.csv": b"i\n1\n", "/bucket/in/b.csv": b"i\n2\n3\n", "/bucket/in/_SUCCESS": b""})
    try:
        for pattern in ("memory://bucket/in", "memory://bucket/in/*.csv"):
            source = CsvSource(pattern)
            assert [unit.path for unit in source.units()] == ["memory://bucket/in/a.csv", "memory://bucket/in/b.csv"]
            assert source.read(0, 3)["i"].tolist() == [1, 2, 3]
        before = source.fingerprint()
        store.pipe("/bucket/in/b.csv", b"i\n2\n4\n")
        assert source.fingerprint() != before
        with open_file("memory://bucket/in/a.csv", 2) as file:
            assert file.read() == b"1\n"
            assert file.seek(-2, os.SEEK_END) == 2
        with pytest.raises(DataError, match="absent"):
            open_file("memory://bucket/absent")
    finally:
        store.rm("/bucket", recursive=True)


def test_a_store_whose_library_is_not_here_says_what_to_install() -> None:
    with pytest.raises(DataError, match="s3fs"):
        list_files("s3://bucket/file")
    with pytest.raises(DataError, match=r"unknown scheme 's33'.*Did you mean"):
        list_files("s33://bucket/file")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_is_read_from_any_place(web, ranges: bool) -> None:
    web.files["/a.txt"], web.ranges = BODY, ranges
    with open_file(f"{web.url}/a.txt", 1000) as file:
        assert file.read(50) == BODY[1000:1050]
        file.seek(3_000_000)
        assert file.read(50) == BODY[3_000_000:3_000_050]
        file.seek(10)
        assert file.read(20) == BODY[10:30]
        file.seek(0, os.SEEK_END)
        assert file.read() == b""
    (file,) = list_files(f"{web.url}/a.txt")
    assert file.size == len(BODY)


def test_a_folder_and_a_pattern_on_a_web_server(web) -> None:
    web.files |= {"/in/a.csv": b"i\n1\n", "/in/b.csv": b"i\n2\n", "/in/notes": b"x", "/in/_x.csv": b""}
    assert CsvSource(f"{web.url}/in/", retry=QUICK).read(0, 2)["i"].tolist() == [1, 2]
    assert names(f"{web.url}/in/[ab]*.csv") == ["a.csv", "b.csv"]
    web.head = False
    assert list_files(f"{web.url}/in/a.csv")[0].size == 4
    with pytest.raises(DataError, match="404"):
        list_files(f"{web.url}/absent.csv", retry=QUICK)
    web.refusals = [403, 403]
    with pytest.raises(DataError, match="403"):
        list_files(f"{web.url}/in/a.csv", retry=QUICK)


def test_fingerprints_on_a_web_server_follow_the_version_or_the_content(web) -> None:
    for web.validators in (True, False):
        web.files["/a.txt"] = b"one"
        first = TextSource(f"{web.url}/a.txt").fingerprint()
        assert TextSource(f"{web.url}/a.txt").fingerprint() == first
        web.files["/a.txt"] = b"two"
        assert TextSource(f"{web.url}/a.txt").fingerprint() != first


@pytest.mark.parametrize("ranges", [True, False])
def test_connections_that_break_and_servers_that_are_overloaded_cost_no_byte(web, ranges: bool) -> None:
    web.files["/a.txt"], web.ranges = BODY, ranges
    source = TextSource(f"{web.url}/a.txt", retry=Retry(patience=10, first_delay=0.001))
    web.refusals, web.broken = [503, 429], [1_000_000, 300_000, 0, 2_500_000]
    if not ranges:
        web.broken = [1_000_000, 2_000_000]
    records, bad = read_all(source)
    assert not bad
    assert [row[0] for row in records.values()] == [repr(line) for line in BODY.decode().splitlines()]
    assert not web.broken


def test_a_server_that_stops_answering_in_the_middle_is_waited_for(web) -> None:
    web.files["/a.txt"] = BODY
    with open_file(f"{web.url}/a.txt", retry=Retry(patience=30, timeout=0.1, first_delay=0.01)) as file:
        file.read(10)
        file.seek(2_000_000)
        web.silent.set()

        def wake() -> None:
            for _ in range(3):  # three attempts have been given up by then
                web.waiting.acquire()
            web.silent.clear()
            web.resume.set()

        waker = threading.Thread(target=wake)
        waker.start()
        assert file.read(10) == BODY[2_000_000:2_000_010]
        waker.join()


def test_a_server_that_stays_away_is_one_typed_event(web) -> None:
    web.files["/a.txt"] = BODY
    source = TextSource(f"{web.url}/a.txt", retry=QUICK)
    (unit,) = source.units()
    reading = source.read_unit(unit, 1000, lambda record: None)
    first = next(reading)
    assert len(first)
    web.silent.set()
    begun = time.monotonic()
    with pytest.raises(OutageError, match=r"a\.txt could not be read for .* attempts"):
        read_all(source)
    assert time.monotonic() - begun < 10
    reading.close()


def test_a_file_that_changes_while_it_is_read_is_refused(web) -> None:
    web.files["/a.txt"], web.broken = BODY, [1_000_000]
    with open_file(f"{web.url}/a.txt", retry=QUICK) as file:
        file.read(10)
        web.files["/a.txt"] = BODY[::-1]
        with pytest.raises(DataError, match="changed while it was read"):
            file.read()


def test_delays_grow_up_to_a_limit_and_differ_between_readers() -> None:
    retry = Retry(first_delay=1, most_delay=8)
    assert [retry.delay(failures, 1.0) for failures in (1, 2, 3, 4, 5, 10**6)] == [1, 2, 4, 8, 8, 8]
    assert retry.delay(3, 0.0) == 2
    with pytest.raises(DataError, match="timeout"):
        Retry(timeout=0)
