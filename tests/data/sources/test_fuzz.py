"""Whatever happens to the bytes of a file: an error of ours or records that are set aside, never anything else."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import (
    CsvSource,
    DecodedSource,
    Field,
    FixedLengthSource,
    ImageFolderSource,
    JsonLinesSource,
    TextSource,
)

COUNT = 40
CSV = "".join(f'{i},{i / 3},"text {i}"\n' for i in range(COUNT)).encode()
JSON = "".join(json.dumps({"i": i, "x": [i, i], "t": f"t{i}"}) + "\n" for i in range(COUNT)).encode()
FIELDS = (Field("i", "int64"), Field("x", "float32"), Field("t", "text"))


def decode(file, unit):
    """Lines of JSON, without any care."""
    for line in file:
        yield json.loads(line)


PAIR = (Field("x", "float32", (2,)),)
FORMATS = {
    "csv": ("a.csv", b"i,x,t\n" + CSV, lambda path: CsvSource(path)),
    "csv with fields": ("a.csv", b"i,x,t\n" + CSV, lambda path: CsvSource(path, fields=FIELDS, required=("x",))),
    "csv.gz": ("a.csv", gzip.compress(b"i,x,t\n" + CSV, mtime=0), lambda path: CsvSource(path)),
    "json lines": ("a.jsonl", JSON, lambda path: JsonLinesSource(path)),
    "text": ("a.txt", CSV, lambda path: TextSource(path)),
    "text.gz": ("a.txt", gzip.compress(CSV, mtime=0), lambda path: TextSource(path)),
    "fixed length": ("a.bin", bytes(range(201)), lambda path: FixedLengthSource(path, fields=PAIR)),
    "png": ("a/1.png", encoded(noise(9, 9)), lambda path: ImageFolderSource(path, size=(4, 4))),
    "jpeg": ("a/1.jpg", encoded(noise(16, 16), "JPEG"), lambda path: ImageFolderSource(path, size=(4, 4))),
    "tiff": ("a/1.tiff", encoded(noise(5, 5), "TIFF"), lambda path: ImageFolderSource(path, size=(4, 4))),
    "gif": ("a/1.gif", encoded(noise(5, 5), "GIF"), lambda path: ImageFolderSource(path)),
    "decoder": ("a.x", JSON, lambda path: DecodedSource(path, decoder=decode, fields=FIELDS[::2])),
}  # fmt: skip


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes changed, some removed, some added, and maybe the rest cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        new = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b"\n", b"\0", b"\xff", b",", b"}\n{", b"\r"]))
        )
        data[at : at + draw(st.integers(0, 5))] = new
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about what it sees in files that are damaged
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data(), size=st.sampled_from([1, 10**6]))
def test_damage_does_no_worse_than_errors_of_ours(put, small_blocks, format: str, data, size: int) -> None:
    name, content, source_of = FORMATS[format]
    damaged = data.draw(damage(content))
    source = source_of(put(name, damaged))
    problem = ""
    try:
        records, bad = read_all(source, size)
    except DataError as error:
        problem = str(error)
    if problem:
        assert name.rpartition("/")[2] in problem
        return
    again, bad_again = read_all(source, 100)
    assert list(again.items()) == list(records.items())
    assert bad_again == bad
    for record in bad.values():
        assert record.reason
        assert record.offset <= max(len(damaged), 20_000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_a_line_that_was_not_written_is_never_read_from_a_truncated_file(put, data) -> None:
    packed = gzip.compress(CSV * 20, mtime=0)
    cut = data.draw(st.integers(11, len(packed) - 1))
    records, bad = read_all(TextSource(put("a.txt.gz", packed[:cut])))
    lines = (CSV * 20).decode().splitlines()
    assert [row[0] for row in records.values()] == [repr(line) for line in lines[: len(records)]]
    assert len(bad) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_a_png_that_is_damaged_in_its_pixels_is_never_read(put, data) -> None:
    """Pillow checks the sums that the format has where it decodes; a picture is the one that was written or none."""
    picture = noise(9, 9)
    content = bytearray(encoded(picture))
    content[data.draw(st.integers(41, len(content) - 21))] ^= 1 << data.draw(st.integers(0, 7))
    records, bad = read_all(ImageFolderSource(put("a/1.png", bytes(content)), size=(9, 9)))
    assert (len(records), len(bad)) == (0, 1) or next(iter(records.values()))[0] == repr(picture.tolist())
