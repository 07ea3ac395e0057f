"""PyTorch's DataLoader and torchdata's StatefulDataLoader, each as tutorials have it and as experts do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from benchmarks.data.peers.program import Configuration, Epochs, Peer, Phase, Schedule, serve
from benchmarks.data.peers.ranks import play

WAYS = ("__getitem__", "__getitems__", "BatchSampler")
"""Image by image; a list of images at a time; and a batch as one element, with `batch_size=None`."""

Pair = tuple[torch.Tensor, torch.Tensor]


class Images:
    """A dataset as tutorials write it: one image at a time; or, asked for a list of them, all at once."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | list[int]) -> Pair:
        return self.images[index].float().div_(255), self.labels[index]


class ManyAtOnce(Images):
    """The same with the hook by which a DataLoader fetches a batch."""

    def __getitems__(self, indices: list[int]) -> Pair:
        return self[indices]


class Numbers:
    """A dataset of the numbers of its records."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


class StatefulRank:
    """A rank of a StatefulDataLoader: its state is the loader's."""

    def __init__(self, records: int, workers: int, world: int, rank: int, batch: int, state: Any) -> None:
        dataset = Numbers(records)
        sampler = StatefulDistributedSampler(dataset, num_replicas=world, rank=rank, shuffle=True, seed=0)
        self.loader = StatefulDataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers)
        if state is not None:
            self.loader.load_state_dict(state)

    def batches(self) -> Iterator[Sequence[int]]:
        """The rest of the epoch."""
        for numbers in self.loader:
            yield numbers.tolist()

    def state(self) -> Any:
        """The loader's state."""
        return self.loader.state_dict()


class RestartedRank:
    """A rank of a DataLoader: it has no state within an epoch, so a changed group begins the epoch again."""

    def __init__(self, records: int, world: int, rank: int, batch: int, _state: Any) -> None:
        dataset = Numbers(records)
        sampler: DistributedSampler[int] = DistributedSampler(dataset, num_replicas=world, rank=rank)  # type: ignore[arg-type]
        self.loader: DataLoader[int] = DataLoader(dataset, batch_size=batch, sampler=sampler)  # type: ignore[arg-type]

    def batches(self) -> Iterator[Sequence[int]]:
        """The epoch."""
        for numbers in self.loader:
            yield numbers.tolist()

    def state(self) -> None:
        """Nothing."""


class TorchData(Peer):
    """The program."""

    packages = ("torchdata", "torch")
    ways = (
        "StatefulDataLoader, 0 workers",
        "StatefulDataLoader, 2 workers",
        "DataLoader, DistributedSampler, epoch begun again",
    )

    def prepare(self) -> None:
        """Load the arrays."""
        self.images = torch.from_numpy(np.load(self.files["images"]))
        self.labels = torch.from_numpy(np.load(self.files["labels"]))
        self.loader: Any = None

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """Three ways to fetch a batch, each with 0, 1 and 2 workers that outlive an epoch, and 1 and 2 threads."""
        names = [f"{loader}, {way}" for loader in ("DataLoader", "StatefulDataLoader") for way in WAYS]
        return [
            {"as": name, "workers": workers, "threads": threads}
            for name in (names if what == "images" else ())
            for workers, threads in ((0, 1), (0, 2), (1, 1), (2, 1))
        ]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A loader that is iterated once per epoch."""
        (name, way), workers = configuration["as"].split(", "), configuration["workers"]
        loader: Any = DataLoader if name == "DataLoader" else StatefulDataLoader
        torch.set_num_threads(configuration["threads"])
        options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
        if way == "BatchSampler":
            dataset = Images(self.images, self.labels)
            sampler = BatchSampler(RandomSampler(dataset), batch, drop_last=False)  # type: ignore[arg-type]
            self.loader = loader(dataset, sampler=sampler, batch_size=None, **options)
        else:
            many = way == "__getitems__"
            dataset = ManyAtOnce(self.images, self.labels) if many else Images(self.images, self.labels)
            collate = {"collate_fn": _as_it_is} if many else {}
            self.loader = loader(dataset, batch_size=batch, shuffle=True, **collate, **options)
        return partial(iter, self.loader)

    def close(self) -> None:
        """Let the workers end."""
        self.loader = None

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Each rank saves and loads its own state."""
        if way.startswith("StatefulDataLoader"):
            yield from play(schedule, batch, partial(StatefulRank, records, int(way.split()[1])))
        else:
            yield from play(schedule, batch, partial(RestartedRank, records))


def _as_it_is(batch: Pair) -> Pair:
    return batch


if __name__ == "__main__":
    serve(TorchData())
