"""Records whose values lie on a web server, and the transform that fetches them; workers of loaders import it too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ganglion.data import Field, Retry
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Schema
from ganglion.data.source import PlainSource
from ganglion.data.sources.csv import CsvSource
from ganglion.data.sources.parquet import ParquetSource
from ganglion.data.sources.tfrecord import TFRecordSource, write_tfrecord
from ganglion.data.transform import Transform

FILES, RECORDS = 4, 150
FORMATS = ("csv", "parquet", "tfrecord")


def write_files(folder: Path) -> None:
    """The same values as files of every format."""
    for number in range(FILES):
        values = np.arange(RECORDS) * 3 + 1000 * number
        table = pa.table({"value": values})
        pyarrow.csv.write_csv(table, folder / f"{number}.csv")
        pyarrow.parquet.write_table(table, folder / f"{number}.parquet", row_group_size=75)
        write_tfrecord(folder / f"{number}.tfrecord", [{"value": value} for value in values.tolist()])


def remote_source(paths: str | tuple[str, ...], format: str, retry: Retry) -> PlainSource:
    """The records of some files of a format."""
    kinds = {"csv": CsvSource, "parquet": ParquetSource, "tfrecord": TFRecordSource}
    return kinds[format](paths=paths, retry=retry)  # type: ignore[abstract]


class Fetch(Transform, frozen=True, tag="remote_records:Fetch"):
    """Puts the value from row `row` of the file `file` of a web server into each record."""

    url: str
    format: str
    retry: Retry

    def schema(self, given: Schema) -> Schema:
        return (*given, Field("value", "int64"))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        files, rows = (np.asarray(batch.columns[name]) for name in ("file", "row"))
        values = np.empty(len(batch), np.int64)
        for file in np.unique(files).tolist():
            source = remote_source(f"{self.url}/{file}.{self.format}", self.format, self.retry)
            found = source.read(0, RECORDS)["value"]
            values[files == file] = np.asarray(found)[rows[files == file]]
        return batch.having({**batch.columns, "value": values})
