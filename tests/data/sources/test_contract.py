from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pictures import encoded, noise
from source_contract import Case, check_contract

from ganglion.data import (
    ArraySource,
    CsvSource,
    DecodedSource,
    Field,
    FixedLengthSource,
    IdxSource,
    ImageFolderSource,
    JsonLinesSource,
    LimitedSource,
    MixedSource,
    TextSource,
    Unusable,
    frame_source,
    interleave,
)
from ganglion.data.sources import fixed_length, idx, images, memory


def decode_pairs(file, unit, factor=1):
    """Records of two bytes, of which the first must be less than 200."""
    number = 0
    while data := file.read(2):
        if data[0] < 200:
            yield {"a": data[0] * factor, "b": f"{data[1]}"}
        else:
            yield Unusable(reason="too large", offset=2 * number, payload=data)
        number += 1


def decode_batches(file, unit):
    """All bytes of a file as one batch."""
    yield {"a": np.frombuffer(file.read(), np.uint8)}


def replace(path: str, old: bytes, new: bytes):
    def change() -> None:
        data = Path(path).read_bytes()
        assert old in data
        assert len(old) == len(new)
        Path(path).write_bytes(data.replace(old, new, 1))

    return change


def csv(put, tmp_path) -> Case:
    rows = [f'{i},{i / 7},"line {i}\n""quoted"", and more",{"true" if i % 2 else "false"}\n' for i in range(300)]
    rows[17], rows[200] = "x,1,a,true\n", "1,2\n"
    path = put("b.csv", "".join(["id,x,text,flag\r\n", *rows]).encode())
    put("c.csv.gz", gzip.compress(b"x,flag,id,text\n,false,-5,\n1,true,,none\n"))
    folder = str(tmp_path)
    fields = (Field("x", "float32"), Field("id", "int16"))
    others = [CsvSource(folder, fields=fields), CsvSource(folder, required=("x",)), CsvSource(path)]
    return Case(CsvSource(folder), 299, 3, replace(path, b"line 150", b"line 15x"), others)


def json_lines(put, tmp_path) -> Case:
    rows = [
        json.dumps({"id": i, "x": i / 3, "tags": list(range(i % 4)), "name": f"ä{i}"}, ensure_ascii=False)
        for i in range(300)
    ]
    rows[3], rows[4], rows[100], rows[101] = '{"id": 4', '{"id": "four"}', "[1]", '{"id": 1, "new": 2}'
    rows[7] = '{"x": null, "id": 7, "tags": [1], "name": ""}'
    path = put("a.jsonl", ("\n".join(rows) + "\n\n").encode())
    fields = (Field("id", "int32"), Field("x", "float64"))
    others = [JsonLinesSource(path, fields=fields), JsonLinesSource(path, required=("x",))]
    return Case(JsonLinesSource(path), 296, 4, replace(path, "ä200".encode(), "ä20x".encode()), others)


def text(put, tmp_path) -> Case:
    path = put("a.txt", b"".join(b"line %d\r\n" % i for i in range(400)) + b"\n\xff\xfe bad\nlast")
    return Case(TextSource(path), 402, 1, replace(path, b"line 300", b"line 30x"), [TextSource(path, name="line")])


def fixed(put, tmp_path) -> Case:
    fields = (Field("label", "uint8"), Field("image", "int16", (2, 3)), Field("x", "float32"))
    rows = [struct.pack(">B6hf", i % 256, *range(i, i + 6), float("nan") if i == 9 else i) for i in range(300)]
    path = put("a.bin", b"HEAD" + b"".join(rows) + b"abc")
    other = FixedLengthSource(path, fields=fields, skip=4)
    source = FixedLengthSource(path, fields=fields, skip=4, order="big", required=("x",))
    return Case(source, 299, 2, replace(path, rows[50], rows[51]), [other])


def image_folder(put, tmp_path, size=(4, 5)) -> Case:
    for name in ("ant", "bee"):
        for number in range(12):
            put(f"{name}/{number:02}.png", encoded(noise(9, 7 + number, number)))
    put("bee/05.png", encoded(noise(9, 7))[:-30])
    put("bee/06.jpg", encoded(noise(9, 7), "JPEG"))
    put("ant/empty.png", b"")
    put("ant/.hidden.png", b"")
    path = str(tmp_path / "ant/03.png")
    folder = str(tmp_path)
    others = [ImageFolderSource(folder, size=size, mode="L"), ImageFolderSource(folder, size=size, labels=False)]
    change = lambda: Path(path).write_bytes(encoded(noise(9, 10, 99)))  # noqa: E731
    return Case(ImageFolderSource(folder, size=size), 24, 2, change, others)


def image_bytes(put, tmp_path) -> Case:
    case = image_folder(put, tmp_path, None)
    case.others = []
    # The header of the image that is cut off is whole, and so are all checksums before.
    return Case(case.source, case.count, case.bad, case.change)


def decoder(put, tmp_path) -> Case:
    path = put("a.pairs", bytes(range(250)) + b"x")
    source = DecodedSource(path, decoder=decode_pairs, fields=(Field("a", "uint8"), Field("b", "text")))
    other = DecodedSource(path, decoder=decode_pairs, fields=source.fields, options={"factor": 2})
    return Case(source, 100, 26, replace(path, b"\x10\x11", b"\x10\x12"), [other])


def decoder_of_batches(put, tmp_path) -> Case:
    path = put("a.bytes", bytes(range(250)))
    put("b.bytes", b"more")
    source = DecodedSource(str(tmp_path), decoder=decode_batches, fields=(Field("a", "uint8"),), batches=True)
    return Case(source, 254, 0, replace(path, b"\x10\x11", b"\x10\x12"))


def arrays(put, tmp_path) -> Case:
    x = np.arange(600, dtype=np.float32).reshape(300, 2)
    x[7, 1] = np.nan
    words = pa.array([None if i == 9 else f"w{i}" for i in range(300)])
    source = ArraySource({"x": x, "word": words, "blob": [b"%d" % i for i in range(300)]}, required=("x",))
    return Case(source, 298, 2, None, [ArraySource({"x": x, "word": words, "blob": [b"%d" % i for i in range(300)]})])


def data_frame(put, tmp_path) -> Case:
    frame = pd.DataFrame({"n": [1, 2, 3], "t": ["a", None, "c"], "c": pd.Categorical(["u", "v", "u"])})
    return Case(frame_source(frame), 2, 1)


def idx_pair(put, tmp_path) -> Case:
    count = 300
    put("images", struct.pack(">4B3I", 0, 0, 8, 3, count, 2, 2) + bytes(range(200)) * 6)
    put("labels", struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(i % 10 for i in range(count)))
    path = str(tmp_path / "images")
    source = IdxSource(images=path, labels=str(tmp_path / "labels"))
    return Case(source, 300, 0, replace(path, bytes(range(20, 60)), bytes([21, *range(21, 60)])))


def limited(put, tmp_path) -> Case:
    inner = csv(put, tmp_path)
    return Case(LimitedSource(inner.source, 100), 100, 1, replace(str(tmp_path / "b.csv"), b"line 50", b"line 5x"),
                [LimitedSource(inner.source, 101)])  # fmt: skip


def mixed(put, tmp_path) -> Case:
    one = json_lines(put, tmp_path).source
    two = JsonLinesSource(put("b.jsonl", b'{"name": "", "x": 1.5, "tags": [2], "id": 1}\n' * 40))
    source = MixedSource(sources=(one, two), weights=(3, 1))
    return Case(source, 336, 4, replace(str(tmp_path / "a.jsonl"), "ä200".encode(), "ä20x".encode()),
                [interleave(one, two), MixedSource(sources=(two, one), weights=(3, 1))])  # fmt: skip


CASES = [csv, json_lines, text, fixed, image_folder, image_bytes, decoder, decoder_of_batches, arrays, data_frame]
CASES += [idx_pair, limited, mixed]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_contract_holds(make, put, tmp_path) -> None:
    check_contract(make(put, tmp_path))


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_contract_holds_with_many_units(make, put, tmp_path, small_blocks, monkeypatch) -> None:
    monkeypatch.setattr(fixed_length, "_UNIT", 200)
    monkeypatch.setattr(memory, "_UNIT", 200)
    monkeypatch.setattr(idx, "_UNIT", 200)
    monkeypatch.setattr(images, "_UNIT_FILES", 5)
    case = make(put, tmp_path)
    check_contract(case)
    files_are_units = make in (decoder, decoder_of_batches, data_frame)
    assert len(case.source.units()) > 3 or files_are_units or make is mixed
