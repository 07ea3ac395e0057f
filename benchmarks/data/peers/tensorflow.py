"""tf.data: images shuffled one by one or by number, CSV with its own reader, and checkpoints of its iterator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.data.peers.program import Configuration, Epochs, Peer, Phase, Schedule, serve
from benchmarks.data.peers.ranks import play


class CheckpointedRank:
    """A rank that reads its shard, the way `tf.data.Dataset.shard` divides; its state is a checkpoint's path."""

    def __init__(self, records: int, folder: Path, world: int, rank: int, batch: int, state: str | None) -> None:
        dataset = tf.data.Dataset.range(records).shuffle(records, seed=0, reshuffle_each_iteration=False)
        self.iterator = iter(dataset.shard(world, rank).batch(batch))
        self.checkpoint = tf.train.Checkpoint(iterator=self.iterator)
        self.prefix = str(folder / f"world-{world}-rank-{rank}")
        if state is not None:
            self.checkpoint.restore(state)

    def batches(self) -> Iterator[Sequence[int]]:
        """The rest of the epoch."""
        return (numbers.numpy().tolist() for numbers in self.iterator)

    def state(self) -> str:
        """Save the iterator."""
        path: str = self.checkpoint.save(self.prefix)
        return path


class TensorFlow(Peer):
    """The program."""

    packages = ("tensorflow-cpu", "numpy")
    ways = ("tf.data, iterator checkpoint",)

    def prepare(self) -> None:
        """Load the arrays."""
        self.images, self.labels = np.load(self.files["images"]), np.load(self.files["labels"])

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """Map before or after batching, or gather shuffled numbers; as many threads as tf.data likes, or one or two.

        Workers are threads of the runtime: 0 leaves their number to tf.data.
        """
        if what == "images":
            ways: tuple[str, ...] = ("map then batch", "batch then map", "gather")
        else:
            ways = ("make_csv_dataset", "CsvDataset") if what == "csv" else ()
        return [
            {"as": "tf.data, expert" if way == "gather" else "tf.data", "way": way, "workers": workers}
            for way in ways
            for workers in (0, 1, 2)
        ]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A dataset that reshuffles itself for each epoch."""
        way, workers = configuration["way"], configuration["workers"]
        count = len(self.labels)
        dataset: Any
        if what == "csv":
            dataset = self._table(way, batch)
        elif way == "gather":
            images, labels = tf.constant(self.images), tf.constant(self.labels)
            dataset = tf.data.Dataset.range(count).shuffle(count).batch(batch)
            dataset = dataset.map(
                lambda numbers: (tf.cast(tf.gather(images, numbers), tf.float32) / 255.0, tf.gather(labels, numbers)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        else:
            dataset = tf.data.Dataset.from_tensor_slices((self.images, self.labels)).shuffle(count)
            if way == "map then batch":
                dataset = dataset.map(_scale, num_parallel_calls=tf.data.AUTOTUNE).batch(batch)
            else:
                dataset = dataset.batch(batch).map(_scale, num_parallel_calls=tf.data.AUTOTUNE)
        options = tf.data.Options()
        if workers:
            options.threading.private_threadpool_size = workers
        dataset = dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
        return partial(iter, dataset)

    def _table(self, way: str, batch: int) -> Any:
        path = str(self.files["csv"])
        with open(path) as file:
            columns = len(file.readline().split(","))
        if way == "make_csv_dataset":
            return tf.data.experimental.make_csv_dataset(
                path,
                batch,
                column_defaults=[tf.float32] * columns,
                num_epochs=1,
                shuffle=False,
                num_parallel_reads=1,
            )
        rows = tf.data.experimental.CsvDataset(path, [tf.float32] * columns, header=True)
        return rows.batch(batch)

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Each rank saves and restores its own checkpoint."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield from play(schedule, batch, partial(CheckpointedRank, records, Path(folder)))


def _scale(image: Any, label: Any) -> tuple[Any, Any]:
    return tf.cast(image, tf.float32) / 255.0, label


if __name__ == "__main__":
    serve(TensorFlow())
