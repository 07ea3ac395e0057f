from __future__ import annotations

import io
import struct
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_contract import Case, check_contract

from ganglion.data import ArrowSource, Field, ParquetSource, TFRecordSource, write_tfrecord
from ganglion.data.sources.example import encode
from ganglion.data.sources.tfrecord_frames import frame


def table(records: int) -> pa.Table:
    return pa.table(
        {
            "number": pa.array(range(records), mask=np.arange(records) % 50 == 7),
            "real": pa.array(np.arange(records) / 3, mask=np.arange(records) % 9 == 1),
            "word": [f"ä{number}" for number in range(records)],
            "bag": [list(range(number % 4)) for number in range(records)],
        }
    )


def parquet(put, tmp_path: Path) -> Case:
    def write(changed: int = 10) -> None:
        one = table(300).set_column(2, "word", pa.array([f"ä{changed if n == 10 else n}" for n in range(300)]))
        pq.write_table(one, tmp_path / "a.parquet", row_group_size=120, write_page_checksum=True, data_page_size=256)

    write()
    sink = io.BytesIO()
    pq.write_table(table(40), sink)
    put("b.parquet", sink.getvalue())
    folder = str(tmp_path)
    source = ParquetSource(folder)
    others = [
        ParquetSource(folder, columns=("real", "word")),
        ParquetSource(folder, fill={"number": 5}),
        ParquetSource(folder, required=("real",)),
    ]
    return Case(source, 333, 7, lambda: write(11), others)


def parquet_with_a_damaged_page(put, tmp_path: Path) -> Case:
    path = tmp_path / "a.parquet"
    one = pa.table({"number": np.arange(400)})
    pq.write_table(one, path, use_dictionary=False, compression="none", write_page_checksum=True, max_rows_per_page=100)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<q", 150))] ^= 1
    path.write_bytes(data)
    case = Case(ParquetSource(str(path)), 300, 100)
    assert case.source.units()[0].records == 400  # what the footer says, when no page has been read
    case.source = msgspec.structs.replace(case.source, required=("number",))  # so that nothing is known before reading
    return case


def arrow(put, tmp_path: Path) -> Case:
    def write(changed: int = 10) -> None:
        one = table(300).set_column(2, "word", pa.array([f"ä{changed if n == 10 else n}" for n in range(300)]))
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, one.schema) as writer:
            writer.write_table(one, max_chunksize=120)

    write()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table(40).schema) as writer:
        writer.write_table(table(40), max_chunksize=15)
    put("b.arrows", sink.getvalue())
    folder = str(tmp_path)
    others = [ArrowSource(folder, columns=("real",)), ArrowSource(folder, fill={"number": 5})]
    return Case(ArrowSource(folder), 333, 7, lambda: write(11), others)


def tfrecord(put, tmp_path: Path) -> Case:
    path = tmp_path / "a.tfrecord"

    def write(changed: int = 10) -> None:
        examples = [
            encode({"n": changed if n == 10 else n, "x": [n / 3, n], "w": f"ä{n}" * (n % 3)}) for n in range(300)
        ]
        examples[7], examples[8] = encode({"n": 7, "w": ""}), b"nonsense"
        frames = [bytearray(frame(example)) for example in examples]
        frames[100][1] ^= 4
        frames[200][-6] ^= 1
        path.write_bytes(b"".join(frames))

    write()
    write_tfrecord(tmp_path / "b.tfrecord", [{"n": 1, "x": [1, 2], "w": "b"}])
    fields = (Field("x", "float32", (2,)), Field("n", "int16"), Field("w", "text"))
    folder = str(tmp_path)
    others = [
        TFRecordSource(folder, fields=fields[:2]),
        TFRecordSource(folder, fields=fields, fill={"x": 0.0}),
        TFRecordSource(folder, format="bytes"),
    ]
    return Case(TFRecordSource(folder, fields=fields), 297, 4, lambda: write(11), others)


@pytest.mark.parametrize(
    "make", [parquet, parquet_with_a_damaged_page, arrow, tfrecord], ids=lambda make: make.__name__
)
def test_the_contract_holds(make, put, tmp_path) -> None:
    check_contract(make(put, tmp_path))
