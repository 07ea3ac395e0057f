"""Ganglion's own loader, and the floors that it is measured against: NumPy's gather and a multiplication."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.data.peers.program import SCALE, Configuration, Epochs, Peer, Phase, Schedule, serve
from benchmarks.data.peers.ranks import play
from ganglion.artifacts.store import FolderStore
from ganglion.data import ArraySource, Loader, prepare
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.transforms import Scale

FRESH, RECYCLED = "floor: NumPy gather and scale, fresh memory", "floor: NumPy gather and scale, recycled memory"


WAYS: dict[str, dict[str, Any]] = {
    "Ganglion, 0 workers": {"parallel": 0},
    "Ganglion, 2 threads": {"parallel": 2},
    "Ganglion, 2 processes": {"parallel": 2, "workers": "processes"},
}
"""Options of the loader, by the name of the way through an elastic epoch."""


class Rank:
    """A rank of a loader; its state is the loader's."""

    def __init__(
        self,
        dataset: PreparedDataset,
        global_batch: int,
        options: dict[str, Any],
        world: int,
        rank: int,
        _batch: int,
        state: Any,
    ) -> None:
        self.loader = Loader(dataset, global_batch=global_batch, rank=rank, world=world, **options)
        if state is not None:
            self.loader.load_state_dict(state)

    def batches(self) -> Iterator[Sequence[int]]:
        """The rest of the epoch."""
        with self.loader:
            for batch in self.loader:
                yield batch.columns["number"].tolist()

    def state(self) -> Any:
        """The loader's state."""
        return self.loader.state_dict()


class Ganglion(Peer):
    """The program."""

    packages = ("ganglion", "numpy")
    ways = tuple(WAYS)

    def prepare(self) -> None:
        """Prepare the images as a dataset."""
        self.images, self.labels = np.load(self.files["images"]), np.load(self.files["labels"])
        self.store = FolderStore(self.folder)
        self.dataset = prepare(ArraySource({"image": self.images, "label": self.labels}), self.store)

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """The loader with 0, 1 and 2 threads, and as many as it likes; the floors."""
        if what != "images":
            return []
        ours = [{"as": "Ganglion", "parallel": parallel} for parallel in (0, 1, 2, None)]
        return [*ours, {"as": FRESH}, {"as": RECYCLED}]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A loader that goes from epoch to epoch, or a loop over a permutation."""
        if configuration["as"] == "Ganglion":
            scaled = (Scale("image", 0.0, 255.0),)
            loader = Loader(self.dataset, global_batch=batch, transforms=scaled, parallel=configuration["parallel"])
            return lambda: ((delivered.columns["image"], delivered.columns["label"]) for delivered in loader)
        return partial(self._floor, batch, configuration["as"] == RECYCLED)

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Every rank loads the same state."""
        dataset = prepare(ArraySource({"number": np.arange(records)}), self.store)
        yield from play(schedule, batch, partial(Rank, dataset, batch, WAYS[way]))

    def _floor(self, batch: int, recycled: bool) -> Iterator[Any]:
        order = np.random.default_rng().permutation(len(self.labels))
        raw, scaled = np.empty((batch, 28, 28), np.uint8), np.empty((batch, 28, 28), np.float32)
        labels = np.empty(batch, self.labels.dtype)
        for begin in range(0, len(order), batch):
            numbers = order[begin : begin + batch]
            if recycled and len(numbers) == batch:
                np.take(self.images, numbers, axis=0, out=raw, mode="clip")
                np.multiply(raw, SCALE, out=scaled)
                np.take(self.labels, numbers, out=labels, mode="clip")
                yield scaled, labels
            else:
                yield self.images[numbers] * SCALE, self.labels[numbers]


if __name__ == "__main__":
    serve(Ganglion())
