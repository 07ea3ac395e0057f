from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.dataset.arrow_layout import ALIGNMENT, IDS, Layout, lay_out, storage
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema

DTYPES = ["bool", "int8", "uint16", "int32", "uint64", "float16", "float32", "float64", "complex64", "complex128"]


def file_of(layout: Layout, values: dict[str, list[np.ndarray]]) -> bytes:
    """Fill the buffers of a layout."""
    data = bytearray(layout.head)
    for name, buffers in layout.buffers.items():
        for buffer, array in zip(buffers, values[name], strict=True):
            assert buffer.offset % ALIGNMENT == 0
            assert len(data) == buffer.offset
            data += array.tobytes() + bytes(-array.nbytes % ALIGNMENT)
    return bytes(data + layout.foot)


def lay_out_values(schema: Schema, records: int, values: dict[str, list[np.ndarray]]) -> pa.RecordBatch:
    layout = lay_out(schema, records, {name: [array.nbytes for array in arrays] for name, arrays in values.items()})
    file = pa.ipc.open_file(file_of(layout, values))
    assert file.num_record_batches == 1
    batch = file.get_batch(0)
    batch.validate(full=True)
    return batch


@given(data=st.data(), records=st.integers(0, 20))
def test_arrow_reads_columns_of_fixed_length(data, records: int) -> None:
    fields, values = [], {IDS: [np.arange(records) * 7]}
    arrays = {}
    for number in range(data.draw(st.integers(1, 4))):
        shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
        field = Field(f"name {number}", data.draw(st.sampled_from(DTYPES)), shape)
        array = np.random.default_rng(number).integers(0, 100, (records, *shape)).astype(field.dtype)
        fields.append(field)
        arrays[field.name] = array
        values[field.name] = [array.view(storage(field)).reshape(-1)]
    batch = lay_out_values(tuple(fields), records, values)
    assert batch.schema.names == [*arrays, IDS]
    assert batch[IDS].to_pylist() == values[IDS][0].tolist()
    for name, array in arrays.items():
        column = batch[name]
        stored = column.storage if isinstance(column, pa.ExtensionArray) else column
        flat: Any = stored.flatten() if pa.types.is_fixed_size_list(stored.type) else stored
        flat = flat.storage if isinstance(flat, pa.ExtensionArray) else flat
        assert flat.to_numpy(zero_copy_only=False).tobytes() == array.tobytes()


@given(texts=st.lists(st.text()), numbers=st.lists(st.lists(st.integers(-9, 9))))
def test_arrow_reads_columns_of_any_length(texts: list[str], numbers: list[list[int]]) -> None:
    count = min(len(texts), len(numbers))
    texts, numbers = texts[:count], numbers[:count]
    encoded = [text.encode() for text in texts]

    def ends(rows: list[Any]) -> np.ndarray:
        return np.cumsum([0, *map(len, rows)]).astype(np.int32)

    raw = np.frombuffer(b"".join(encoded), np.uint8)
    values = {
        "t": [ends(encoded), raw],
        "b": [ends(encoded), raw],
        "n": [ends(numbers), np.array([value for row in numbers for value in row], np.int16)],
        IDS: [np.arange(count)],
    }
    schema = (Field("t", TEXT), Field("b", BYTES), Field("n", "int16", sequence=True))
    batch = lay_out_values(schema, count, values)
    assert batch.schema.types == [pa.string(), pa.binary(), batch.schema.field("n").type, pa.int64()]
    assert batch["t"].to_pylist() == texts
    assert batch["b"].to_pylist() == encoded
    assert batch["n"].to_pylist() == numbers


def test_images_are_tensors_and_booleans_are_booleans_to_arrow() -> None:
    schema = (Field("image", "uint8", (2, 3)), Field("flag", "bool"))
    values = {"image": [np.arange(12, dtype=np.uint8)], "flag": [np.array([1, 0], np.int8)], IDS: [np.arange(2)]}
    batch = lay_out_values(schema, 2, values)
    assert batch["image"].to_numpy_ndarray().tolist() == np.arange(12).reshape(2, 2, 3).tolist()
    assert batch["flag"].to_pylist() == [True, False]


def test_what_arrow_has_no_type_for_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be stored; use float64"):
        storage(Field("x", "longdouble"))
