"""Grain: a MapDataset that is shuffled as a whole, and the ElasticIterator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import grain
import numpy as np
import numpy.typing as npt
from grain.experimental import ElasticIterator
from grain.sharding import ShardOptions

from benchmarks.data.peers.program import SCALE, Configuration, Epochs, Peer, Phase, Schedule, serve
from benchmarks.data.peers.ranks import play

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class Images:
    """A random-access source; a picklable one, as workers are new interpreters."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Pair:
        return self.images[index], self.labels[index]

    def gather(self, indices: npt.NDArray[np.int64]) -> Pair:
        """A batch, scaled, for indices that were shuffled and batched alone."""
        return self.images[indices] * SCALE, self.labels[indices]


def scale(pair: Pair) -> Pair:
    """Make pixels float32 from 0 to 1, of one image or of a batch."""
    return pair[0] * SCALE, pair[1]


class PlainRank:
    """A rank of a sliced MapDataset, whose iterator has a state."""

    def __init__(self, records: int, world: int, rank: int, batch: int, state: Any) -> None:
        shuffled = grain.MapDataset.range(records).shuffle(seed=0)
        self.iterator = iter(shuffled[rank::world].batch(batch).to_iter_dataset())
        if state is not None:
            self.iterator.set_state(state)

    def batches(self) -> Iterator[Sequence[int]]:
        """The rest of the epoch."""
        return (numbers.tolist() for numbers in self.iterator)

    def state(self) -> Any:
        """The iterator's state."""
        return self.iterator.get_state()


class ElasticRank(PlainRank):
    """A rank of Grain's own iterator for changes of the number of ranks; its batches are the global batch's parts."""

    def __init__(self, records: int, global_batch: int, world: int, rank: int, _batch: int, state: Any) -> None:
        shuffled = grain.MapDataset.range(records).shuffle(seed=0)
        shard = ShardOptions(shard_index=rank, shard_count=world)
        self.iterator = iter(ElasticIterator(shuffled, global_batch, shard))
        if state is not None:
            self.iterator.set_state(state)


class Grain(Peer):
    """The program."""

    packages = ("grain", "numpy")
    ways = ("Grain, MapDataset sliced by rank", "Grain, ElasticIterator", "Grain, ElasticIterator, global batch of 120")

    def prepare(self) -> None:
        """Load the arrays."""
        self.source = Images(np.load(self.files["images"]), np.load(self.files["labels"]))
        self.iterator: Any = None

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """Read by 1 thread, by 16 (the default), or by 1 or 2 worker processes; images, or numbers of images."""
        if what != "images":
            return []
        readers = ({"workers": 0, "threads": 1}, {"workers": 0, "threads": 16})
        readers += ({"workers": 1, "threads": 1}, {"workers": 2, "threads": 1})
        ways = ("map then batch", "batch then map", "gather")
        names = {"gather": "Grain, expert"}
        return [{"as": names.get(way, "Grain"), "way": way} | reader for way in ways for reader in readers]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A dataset that is repeated; Grain shuffles each epoch anew."""
        way, workers, threads = configuration["way"], configuration["workers"], configuration["threads"]
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
        if way == "gather":
            built = grain.MapDataset.range(len(self.source)).shuffle(0).batch(batch).map(self.source.gather)
        elif way == "map then batch":
            built = grain.MapDataset.source(self.source).shuffle(0).map(scale).batch(batch)
        else:
            built = grain.MapDataset.source(self.source).shuffle(0).batch(batch).map(scale)
        steps = -(-len(self.source) // batch)
        dataset = built.repeat().to_iter_dataset(read_options=reading)  # one iterator, so that workers live on
        if workers:
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        self.iterator = iter(dataset)
        return lambda: islice(self.iterator, steps)

    def close(self) -> None:
        """Let threads and workers end."""
        if self.iterator is not None:
            self.iterator.close()
            self.iterator = None

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Each rank saves and loads its own state."""
        if way == self.ways[0]:
            yield from play(schedule, batch, partial(PlainRank, records))
        else:
            own = 120 if way.endswith("120") else batch  # it refuses a global batch that the ranks do not divide
            yield from play(schedule, own, partial(ElasticRank, records, own))


if __name__ == "__main__":
    serve(Grain())
