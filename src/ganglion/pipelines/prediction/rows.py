"""The rows of a batch prediction: record id, kept columns, prediction; as Parquet, Arrow or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import msgspec
import numpy as np
import pyarrow as pa

from ganglion.artifacts.elements import element_type
from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import DataError, suggest
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array, Column
from ganglion.data.records.schema import Schema

ID, CLASS = "id", "class"
"""Columns of every row, and of the rows of a classifier: the name of the class with the highest number."""

Format = Literal["parquet", "arrow", "jsonl"]
FORMATS: tuple[str, ...] = get_args(Format)


class Layout:
    """The columns of the rows.

    A classifier is a model with names of classes and one output of a number for each: its rows have `class` and, under
    the name of the output, these numbers by the names of the classes. The outputs of other models are columns.

    Args:
        manifest: of the model.
        schema: of the source.
        columns: of the source that are kept; `new=name` keeps one under another name.

    Attributes:
        arrow: the columns of the rows.

    Raises:
        DataError: there is no such column, or two would have the same name.
    """

    def __init__(self, manifest: PackageManifest, schema: Schema, columns: Sequence[str]) -> None:
        fields = {field.name: field for field in schema}
        self._kept = tuple(_renamed(text, fields) for text in columns)
        for _new, name in self._kept:
            if name not in fields:
                raise DataError(f"The source has no column {name!r} to keep. {suggest(name, fields)}")
        self._manifest = manifest
        outputs = manifest.signature.outputs
        self._classes = _classes(manifest)
        kept_as = [new for new, _name in self._kept]
        names = [ID, *kept_as, *([CLASS] if self._classes else []), *(tensor.name for tensor in outputs)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"The rows would have two columns {twice[0]!r}. Keep the source's under another name, as "
                f"other_{twice[0]}={twice[0]}, or leave it out."
            )
        kept = [pa.field(name, _type(fields[old].empty())) for name, old in self._kept]
        none = {
            tensor.name: np.empty((0, *(max(size, 0) for size in tensor.shape[1:])), element_type(tensor.dtype))
            for tensor in outputs
        }
        made = [pa.field(name, array.type) for name, array in self._prediction(none).items()]
        self.arrow: pa.Schema = pa.schema([pa.field(ID, pa.int64()), *kept, *made])

    def table(self, batch: Batch, outputs: dict[str, Array]) -> pa.Table:
        """The rows of some records.

        Args:
            batch: the records.
            outputs: of the model for them, by name.
        """
        kept = {name: _arrow(batch.columns[old]) for name, old in self._kept}
        return pa.table({ID: pa.array(batch.ids), **kept, **self._prediction(outputs)}, self.arrow)

    def _prediction(self, outputs: dict[str, Array]) -> dict[str, pa.Array]:
        if not self._classes:
            sizes = {tensor.name: tensor.shape[1:] for tensor in self._manifest.signature.outputs}
            return {name: _arrow(outputs[name], open_sizes=-1 in shape) for name, shape in sizes.items()}
        name = self._manifest.signature.outputs[0].name
        numbers = outputs[name]
        best = pa.array(numbers.argmax(axis=1) if len(numbers) else np.empty(0, np.int64), pa.int64())
        columns = [pa.array(np.ascontiguousarray(numbers[:, place])) for place in range(len(self._classes))]
        return {
            CLASS: pa.array(self._classes, pa.string()).take(best),
            name: pa.StructArray.from_arrays(columns, list(self._classes)),
        }


def _renamed(text: str, fields: Container[str]) -> tuple[str, str]:
    """The name in the rows and in the source of `name` or `new=name`; names may have an equals sign of their own."""
    new, separator, name = text.partition("=")
    return (new, name) if separator and new and text not in fields else (text, text)


class Writer(Protocol):
    """Writes the rows of one part."""

    def write_table(self, table: pa.Table) -> None:
        """Append rows."""
        ...

    def close(self) -> None:
        """End the file."""
        ...


def open_writer(path: Path, form: Format, schema: pa.Schema) -> Writer:
    """A new file for rows."""
    return _WRITERS[form](path, schema)


def format_of(destination: Path, said: str | None) -> Format:
    """The format that was said, else that of the ending of the folder's name, else Parquet.

    Raises:
        DataError: there is no such format.
    """
    ending = destination.suffix.removeprefix(".")
    chosen = said or (ending if ending in FORMATS else "parquet")
    if chosen not in FORMATS:
        raise DataError(f"Rows cannot be written as {chosen!r}. {suggest(chosen, FORMATS)}")
    return cast(Format, chosen)


class _JsonLines:
    """One JSON object a line; what JSON has no form for (NaN, infinity) is null, bytes are Base64."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._encoder = msgspec.json.Encoder()

    def write_table(self, table: pa.Table) -> None:
        self._file.write(self._encoder.encode_lines(table.to_pylist()))

    def close(self) -> None:
        self._file.close()


def _parquet(path: Path, schema: pa.Schema) -> Writer:
    from pyarrow import parquet

    writer: Writer = parquet.ParquetWriter(path, schema, compression="zstd")
    return writer


def _ipc(path: Path, schema: pa.Schema) -> Writer:
    writer: Writer = pa.ipc.new_file(str(path), schema)
    return writer


_WRITERS: dict[str, Callable[[Path, Any], Writer]] = {
    "parquet": _parquet,
    "arrow": _ipc,
    "jsonl": lambda path, _schema: _JsonLines(path),
}


def _classes(manifest: PackageManifest) -> tuple[str, ...]:
    """The names of the classes of a classifier; none of another model."""
    outputs = manifest.signature.outputs
    scores = len(outputs) == 1 and outputs[0].dtype.startswith("float")
    return manifest.classes if scores and outputs[0].shape[1:] == (len(manifest.classes),) else ()


def _type(column: Column) -> pa.DataType:
    return _arrow(column).type


def _arrow(column: Column, *, open_sizes: bool = False) -> pa.Array:
    """A column of records as Arrow has it; arrays as lists, of fixed size unless sizes differ from batch to batch."""
    if not isinstance(column, np.ndarray):
        return column
    array = pa.array(np.ascontiguousarray(column).reshape(-1), pa.string() if column.dtype.kind == "O" else None)
    for axis in range(column.ndim - 1, 0, -1):
        size = column.shape[axis]
        if open_sizes:
            count = int(np.prod(column.shape[:axis], dtype=np.int64))
            array = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * size), array)
        else:
            array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
