"""Ray Data: shuffled locally or as a whole, tables read from files, and epochs that begin again when ranks change."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.extensions import ArrowTensorArray

from benchmarks.data.peers.program import SCALE, Configuration, Epochs, Peer, Phase, Schedule, serve

BLOCKS = 8
"""Pieces that the images lie in."""

BUFFER = 8192
"""Records that a local shuffle mixes, at least."""


class RayData(Peer):
    """The program; it starts a Ray of its own with two CPUs."""

    packages = ("ray", "pyarrow")
    ways = ("Ray Data, streaming_split, epoch begun again",)

    def prepare(self) -> None:
        """Put the images into the object store."""
        self.scratch = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")  # its sockets need a short path
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=2 * 2**30,
            _temp_dir=self.scratch.name,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        images, labels = np.load(self.files["images"]), np.load(self.files["labels"])
        tables = [
            pa.table({"image": ArrowTensorArray.from_numpy(piece), "label": of_piece})
            for piece, of_piece in zip(np.array_split(images, BLOCKS), np.array_split(labels, BLOCKS), strict=True)
        ]
        self.dataset: Any = ray.data.from_arrow(tables).materialize()

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """Both shuffles; images scaled by Ray's two workers or by the consumer; one or four batches ahead."""
        if what == "csv":
            return [{"as": "Ray Data", "way": "in order", "workers": 2, "ahead": ahead} for ahead in (1, 4)]
        shuffles = ("local shuffle only", "random_shuffle")
        workers = (0, 2) if what == "images" else (2,)
        return [
            {"as": f"Ray Data, {shuffle}", "way": shuffle, "workers": count, "ahead": ahead}
            for shuffle in shuffles
            for count in workers
            for ahead in (1, 4)
        ]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A dataset that is executed once per epoch."""
        options: dict[str, Any] = {"batch_size": batch, "prefetch_batches": configuration["ahead"]}
        if what == "images":
            dataset = self.dataset
        else:
            read = ray.data.read_parquet if what == "parquet" else ray.data.read_csv
            dataset = read(str(self.files[what]))
        if configuration["way"] == "random_shuffle":
            dataset = dataset.random_shuffle()
        elif configuration["way"] != "in order":
            options["local_shuffle_buffer_size"] = max(BUFFER, 4 * batch)
        if what == "images" and configuration["workers"]:
            dataset = dataset.map_batches(_scale, batch_format="numpy")

        def epoch() -> Iterator[Any]:
            for columns in dataset.iter_batches(batch_format="numpy", **options):
                if what != "images":
                    yield columns
                elif columns["image"].dtype == np.float32:
                    yield columns["image"], columns["label"]
                else:
                    yield columns["image"] * SCALE, columns["label"]

        return epoch

    def end(self) -> None:
        """End Ray and delete its files."""
        ray.shutdown()
        self.scratch.cleanup()

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Ray Data has no state within an epoch; its ranks have to ask at the same time, so they are threads."""
        for world, steps in schedule:
            shards = ray.data.range(records).random_shuffle(seed=0).streaming_split(world, equal=True)

            def take(shard: Any, size: int = max(1, batch // world), steps: int | None = steps) -> list[list[int]]:
                return [piece["id"].tolist() for piece in islice(shard.iter_batches(batch_size=size), steps)]

            with ThreadPoolExecutor(world) as pool:
                ranks = list(pool.map(take, shards))
            yield Phase(world=world, batches=ranks)


def _scale(columns: dict[str, Any]) -> dict[str, Any]:
    return {"image": columns["image"] * SCALE, "label": columns["label"]}


if __name__ == "__main__":
    serve(RayData())
