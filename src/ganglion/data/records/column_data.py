"""Columns as plain data, so that a source in memory can be handed to another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ganglion.data.records.columns import Column


def column_data(column: Column) -> dict[str, Any]:
    """Describe a column: NumPy arrays by dtype, shape and values, Arrow arrays as an IPC stream."""
    if isinstance(column, np.ndarray):
        return {"dtype": column.dtype.name, "shape": column.shape, "data": column.tobytes()}
    import pyarrow as pa

    batch = pa.record_batch([column], ["column"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return {"arrow": sink.getvalue().to_pybytes()}


def column_from(data: Mapping[str, Any]) -> Column:
    """Rebuild a column from what `column_data` returned."""
    if "arrow" not in data:
        array: Column = np.frombuffer(data["data"], data["dtype"]).reshape(data["shape"])
        return array
    import pyarrow as pa

    with pa.ipc.open_stream(data["arrow"]) as reader:
        return reader.read_next_batch().column(0)
