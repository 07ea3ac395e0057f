"""WebDataset: tar shards behind a shuffle buffer that holds the whole dataset; epochs begin again when ranks change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from benchmarks.data.peers.program import SCALE, Configuration, Epochs, Peer, Phase, Schedule, serve
from benchmarks.data.peers.ranks import play

SHARDS = 16
"""Tar files that a dataset is written to."""


class RestartedRank:
    """A rank that reads every so-manieth shard; it has no state within an epoch."""

    def __init__(self, shards: list[str], records: int, world: int, rank: int, batch: int, _state: Any) -> None:
        self.surroundings = {"WORLD_SIZE": str(world), "RANK": str(rank)}
        dataset = wds.WebDataset(shards, shardshuffle=len(shards), nodesplitter=wds.split_by_node, seed=0)
        self.dataset = dataset.shuffle(records, seed=0).decode().to_tuple("number.cls").batched(batch)

    def batches(self) -> Iterator[Sequence[int]]:
        """The epoch."""
        os.environ |= self.surroundings  # this is where the library looks for the rank
        for (numbers,) in self.dataset:
            yield numbers.tolist()

    def state(self) -> None:
        """Nothing."""


class WebDataset(Peer):
    """The program."""

    packages = ("webdataset", "torch")
    ways = ("WebDataset, split_by_node, epoch begun again",)

    def prepare(self) -> None:
        """Write the tar files, once with images as `.npy` and once as bare bytes."""
        images, labels = np.load(self.files["images"]), np.load(self.files["labels"])
        self.count = len(labels)
        rows = list(zip(images, labels.tolist(), strict=True))
        self.shards = {
            "npy": _write(self.folder / "npy", ({"image.npy": image, "label.cls": label} for image, label in rows)),
            "bytes": _write(
                self.folder / "bytes", ({"image.bin": image.tobytes(), "label.cls": label} for image, label in rows)
            ),
        }
        self.loader: Any = None

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """Images decoded by the library or from bare bytes, with 0, 1 and 2 workers that outlive an epoch."""
        ways = ("npy", "bytes") if what == "images" else ()
        return [{"as": "WebDataset", "way": way, "workers": workers} for way in ways for workers in (0, 1, 2)]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A loader that is iterated once per epoch."""
        way, workers = configuration["way"], configuration["workers"]
        shards = self.shards[way]
        dataset = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(self.count)
        if way == "npy":
            pairs = dataset.decode().to_tuple("image.npy", "label.cls").map(_scale)
        else:
            pairs = dataset.to_tuple("image.bin", "label.cls").map(_parse)
        self.loader = wds.WebLoader(
            pairs.batched(batch), batch_size=None, num_workers=workers, persistent_workers=workers > 0
        )
        return partial(iter, self.loader)

    def close(self) -> None:
        """Let the workers end."""
        self.loader = None

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Each rank begins the epoch again."""
        shards = _write(self.folder / "numbers", ({"number.cls": number} for number in range(records)))
        yield from play(schedule, batch, partial(RestartedRank, shards, records))


def _write(folder: Path, samples: Iterator[dict[str, Any]]) -> list[str]:
    """Deal samples out to shards; the paths of these."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = [str(folder / f"{shard:04}.tar") for shard in range(SHARDS)]
    writers = [wds.TarWriter(path) for path in paths]
    for number, sample in enumerate(samples):
        writers[number % SHARDS].write({"__key__": f"{number:08}"} | sample)
    for writer in writers:
        writer.close()
    return paths


def _scale(pair: tuple[Any, int]) -> tuple[Any, int]:
    return pair[0] * SCALE, pair[1]


def _parse(pair: tuple[bytes, bytes]) -> tuple[Any, int]:
    return np.frombuffer(pair[0], np.uint8).reshape(28, 28) * SCALE, int(pair[1])


if __name__ == "__main__":
    serve(WebDataset())
