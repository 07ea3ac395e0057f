"""Points that lie on a web server and are read from there while a training goes on; workers import this module."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from ganglion.data import Retry
from ganglion.data.sources.parquet import ParquetSource
from ganglion.training.callbacks import Callback

FILES, RECORDS, BATCH = 2, 96, 16
STEPS = FILES * RECORDS // BATCH


def write_points(folder):
    """Points of a plane in several files of several row groups."""
    random = np.random.default_rng(3)
    for number in range(FILES):
        columns = {f"x{index}": random.normal(size=RECORDS).astype(np.float32) for index in range(3)}
        columns["target"] = 2 * columns["x0"] - columns["x1"] + 1
        pyarrow.parquet.write_table(pa.table(columns), Path(folder) / f"{number}.parquet", row_group_size=BATCH)


class RemotePoints:
    """Batches in the order of the files, each fetched when it is asked for."""

    def __init__(self, *, url, patience):
        retry = Retry(patience=patience, timeout=0.3, first_delay=0.05, most_delay=0.2)
        self.source = ParquetSource(paths=tuple(f"{url}/{number}.parquet" for number in range(FILES)), retry=retry)
        self.count = FILES * RECORDS
        self.global_batch = BATCH
        self.steps_per_epoch = STEPS

    def batches(self, epoch, *, first, last, of, start=0):
        for step in range(start, STEPS):
            begin = step * BATCH
            columns = self.source.read(begin + first * BATCH // of, begin + last * BATCH // of)
            features = np.stack([columns[f"x{index}"] for index in range(3)], axis=1)
            yield {"features": features, "target": np.asarray(columns["target"])}


class GoAway(Callback):
    """Lets the server go away after a step, in the middle of an epoch."""

    def __init__(self, *, url, step, seconds):
        self.script = f"{url}/script/silent/0/{seconds}"
        self.step = step

    def on_step_end(self, training):
        if training.step == self.step:
            with urllib.request.urlopen(self.script) as answer:
                assert answer.status == 204
