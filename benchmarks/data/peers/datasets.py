"""Hugging Face datasets: a memory-mapped dataset shuffled as a whole, tables, and the state of its iterable dataset."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Array2D, Dataset, Features, Value, disable_progress_bars, load_dataset, load_from_disk
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from benchmarks.data.peers.program import SCALE, Configuration, Epochs, Peer, Phase, Schedule, serve
from benchmarks.data.peers.ranks import play

SHARDS = 16
"""Pieces of an iterable dataset."""

BUFFER = 1000
"""Records that an iterable dataset mixes: the library's own default."""


class IterableRank:
    """A rank of an iterable dataset, whose state the library keeps."""

    def __init__(self, records: int, world: int, rank: int, batch: int, state: Any) -> None:
        dataset = Dataset.from_dict({"number": range(records)}).to_iterable_dataset(num_shards=SHARDS)
        shuffled = dataset.shuffle(seed=0, buffer_size=BUFFER)
        self.dataset = split_dataset_by_node(shuffled, rank=rank, world_size=world).batch(batch)
        if state is not None:
            self.dataset.load_state_dict(state)

    def batches(self) -> Iterator[Sequence[int]]:
        """The rest of the epoch."""
        return (piece["number"] for piece in self.dataset)

    def state(self) -> Any:
        """The dataset's state."""
        return self.dataset.state_dict()


class HuggingFace(Peer):
    """The program."""

    packages = ("datasets", "torch", "pyarrow")
    ways = ("datasets, IterableDataset.state_dict",)

    def prepare(self) -> None:
        """Save the images as a memory-mapped dataset."""
        disable_progress_bars()
        images, labels = np.load(self.files["images"]), np.load(self.files["labels"])
        place = self.folder / "images"
        shutil.rmtree(place, ignore_errors=True)
        features = Features({"image": Array2D((28, 28), "uint8"), "label": Value("int64")})
        Dataset.from_dict({"image": images, "label": labels}, features=features).save_to_disk(str(place))
        self.dataset: Any = load_from_disk(str(place))
        self.loader: Any = None
        self.caches: list[tempfile.TemporaryDirectory[str]] = []

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """Images: its own batches, of arrays or of Arrow columns, or a DataLoader with 0, 1 and 2 workers."""
        if what == "images":
            expert = {"as": "datasets, expert", "way": "arrow", "workers": 0}
            loaders = [{"as": "datasets", "way": "DataLoader", "workers": workers} for workers in (0, 1, 2)]
            return [{"as": "datasets", "way": "iter", "workers": 0}, *loaders, expert]
        local = ", local shuffle only" if what == "parquet" else ""
        return [
            {"as": "datasets", "way": "load_dataset", "workers": 0},
            {"as": f"datasets{local}", "way": "load_dataset, streaming", "workers": 0},
        ]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A dataset that is shuffled anew for each epoch."""
        way, workers = configuration["way"], configuration["workers"]
        if what != "images":
            return partial(self._table, what, batch, streaming=way.endswith("streaming"))
        if way == "DataLoader":
            self.loader = DataLoader(
                self.dataset.with_format("numpy", dtype=np.float32),
                batch_size=batch,
                shuffle=True,
                num_workers=workers,
                persistent_workers=workers > 0,
                collate_fn=_collate,
            )
            return partial(iter, self.loader)
        return partial(self._images, batch, way)

    def close(self) -> None:
        """Let the workers end and delete what was cached."""
        self.loader = None
        for cache in self.caches:
            cache.cleanup()
        self.caches.clear()

    def _images(self, batch: int, way: str) -> Iterator[Any]:
        shuffled = self.dataset.shuffle(keep_in_memory=True)
        options = {"type": "arrow"} if way == "arrow" else {"type": "numpy", "dtype": np.float32}
        for piece in shuffled.with_format(**options).iter(batch_size=batch):
            if way == "iter":
                yield piece["image"] * SCALE, piece["label"]
            else:
                column = piece["image"].combine_chunks()
                pixels = getattr(column, "storage", column).flatten().flatten().to_numpy()
                yield pixels.reshape(-1, 28, 28) * SCALE, piece["label"].to_numpy()

    def _table(self, what: str, batch: int, streaming: bool) -> Iterator[Any]:
        """Read the file anew: the library keeps what it has converted, and this is about the first epoch."""
        cache = tempfile.TemporaryDirectory(dir=self.folder)
        self.caches.append(cache)
        options = {"data_files": str(self.files[what]), "split": "train", "cache_dir": cache.name}
        dataset = load_dataset(what, streaming=streaming, **options)
        if what == "parquet":
            dataset = dataset.shuffle(buffer_size=8 * BUFFER) if streaming else dataset.shuffle(keep_in_memory=True)
        yield from dataset.with_format("numpy").iter(batch_size=batch)

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Each rank saves and loads its own state."""
        yield from play(schedule, batch, partial(IterableRank, records))


def _collate(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    images = np.stack([row["image"] for row in rows])
    return images * SCALE, np.asarray([row["label"] for row in rows])


if __name__ == "__main__":
    serve(HuggingFace())
