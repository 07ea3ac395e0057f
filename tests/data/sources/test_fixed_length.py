from __future__ import annotations

import gzip

import numpy as np
import pytest
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import Field, FixedLengthSource

CIFAR = (Field("label", "uint8"), Field("image", "uint8", (3, 32, 32)))


def test_records_of_labels_and_images_are_read(put) -> None:
    data = np.random.default_rng(0).integers(0, 255, (50, 3073), np.uint8)
    for path in (put("a.bin", data.tobytes()), put("b.bin.gz", gzip.compress(data.tobytes()))):
        columns = FixedLengthSource(path, fields=CIFAR).read(0, 50)
        assert (columns["label"] == data[:, 0]).all()
        assert (columns["image"] == data[:, 1:].reshape(50, 3, 32, 32)).all()


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_order_of_bytes_and_booleans(put, order) -> None:
    kinds = np.dtype([("n", "<i4" if order == "little" else ">i4"), ("b", "u1")])
    values = np.array([(1, 0), (-70_000, 1), (5, 7)], kinds)
    fields = (Field("n", "int32"), Field("b", "bool"))
    columns = FixedLengthSource(put("a.bin", values.tobytes()), fields=fields, order=order).read(0, 3)
    assert columns["n"].tolist() == [1, -70_000, 5]
    assert columns["n"].dtype.isnative
    assert columns["b"].tolist() == [False, True, True]


def test_what_is_cut_off_is_set_aside_with_its_place(put) -> None:
    data = bytes(range(10))
    fields = (Field("x", "int32"),)
    source = FixedLengthSource(put("a.bin", data), fields=fields)
    records, bad = read_all(source)
    assert len(records) == 2
    ((record,),) = [list(bad.values())]
    assert (record.offset, record.payload) == (8, data[8:])
    assert "cut off after 2 of 4 bytes" in record.reason
    noise = np.random.default_rng(0).bytes(4 * 50_000)
    packed = gzip.compress(noise)
    records, bad = read_all(FixedLengthSource(put("b.bin", packed[:100_000]), fields=fields))
    assert list(records.values()) == [(str(n),) for n in np.frombuffer(noise, "<i4")[: len(records)]]
    assert len(records) > 20_000
    assert ["truncated" in record.reason for record in bad.values()] == [True]
    assert "empty" in next(iter(read_all(FixedLengthSource(put("c.bin", b""), fields=fields))[1].values())).reason


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fields": ()}, "fields that take bytes"),
        ({"fields": (Field("t", "text"),)}, "t text has no fixed length"),
        ({"fields": (Field("x", "int8"),), "skip": -1}, "skip"),
        ({"fields": (Field("x", "int8"),), "required": ("y",)}, "'y' is required"),
    ],
)
def test_options_that_cannot_be_are_refused(options, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        FixedLengthSource("a.bin", **options)
