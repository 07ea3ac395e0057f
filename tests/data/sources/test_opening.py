from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ganglion.core.errors import DataError
from ganglion.data import (
    CsvSource,
    Field,
    FixedLengthSource,
    IdxSource,
    ImageFolderSource,
    JsonLinesSource,
    TextSource,
    open_source,
)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("a.csv", CsvSource),
        ("a.CSV.gz", CsvSource),
        ("a.tsv", CsvSource),
        ("a.jsonl", JsonLinesSource),
        ("a.ndjson.zst", JsonLinesSource),
        ("a.txt.xz", TextSource),
        ("deep/b/a.JPG", ImageFolderSource),
    ],
)
def test_the_ending_of_files_says_which_source_reads_them(put, tmp_path, name: str, cls: type) -> None:
    path = put(name, b"x\n")
    assert type(open_source(path)) is cls
    assert type(open_source(str(tmp_path))) is cls


def test_options_are_those_of_the_class(put) -> None:
    path = put("a.tsv", b"a\tb\n1\t2\n")
    assert open_source(path).read(0, 1)["b"].tolist() == [2]
    found = open_source(put("a.dat", b"\1\2"), format="fixed length", fields=(Field("x", "uint8"),))
    assert isinstance(found, FixedLengthSource)
    with pytest.raises(DataError, match=r"CsvSource has no option 'delimeter'.*Did you mean 'delimiter'"):
        open_source(path, delimeter=";")
    with pytest.raises(DataError, match=r"required field .fields."):
        open_source(put("a.bin", b"\1"))


def test_a_pair_of_idx_files_is_found_in_its_folder(put, tmp_path) -> None:
    put("train-images-idx3-ubyte", struct.pack(">4B3I", 0, 0, 8, 3, 1, 1, 1) + b"\7")
    labels = put("train-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, 1) + b"\3")
    source = open_source(str(tmp_path))
    assert isinstance(source, IdxSource)
    assert source.read(0, 1)["label"].tolist() == [3]
    with pytest.raises(DataError, match="one file of images and one of labels"):
        open_source(labels)


@pytest.mark.parametrize(
    ("files", "format", "problem"),
    [
        (["a.xyz"], None, r"no known format \(\.xyz\).*csv: \.csv, \.tsv; json lines.*parquet.*arrow.*tfrecord"),
        (["README"], None, r"\(no ending\)"),
        (["a.csv", "b.txt"], None, r"several formats \(csv, text\)"),
        (["a.csv"], "cvs", r"'cvs' is unknown.*Did you mean 'csv'"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_what_is_known(put, tmp_path: Path, files, format, problem) -> None:
    for name in files:
        put(name, b"x")
    with pytest.raises(DataError, match=problem):
        open_source(str(tmp_path), format=format)
