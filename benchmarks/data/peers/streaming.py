"""MosaicML Streaming: shards in its own format, and its resumption on another number of ranks."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data.peers.program import SCALE, Configuration, Epochs, Peer, Phase, RefusedError, Schedule, serve

# Streaming imports torchvision, whose compiled operators do not load beside a torch without CUDA; it uses none of
# them, but the import fails unless these are declared.
for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402  # after the declaration
from streaming.base.util import clean_stale_shared_memory  # noqa: E402  # the same

PATIENCE = 60.0
"""Seconds that the ranks of a phase may take."""


class Images(StreamingDataset):  # type: ignore[misc]  # the peer's packages are not installed where types are checked
    """Images, scaled one by one, as the library hands them out."""

    def __getitem__(self, index: int) -> Any:
        sample = super().__getitem__(index)
        return sample["image"] * SCALE, sample["label"]


class Streaming(Peer):
    """The program."""

    packages = ("mosaicml-streaming", "torch")
    ways = ("Streaming, 0 workers", "Streaming, 2 workers")

    def prepare(self) -> None:
        """Write the images as MDS shards of the default size."""
        clean_stale_shared_memory()
        self.there_before = _shared_memory()
        self.images, self.numbers = self.folder / "images", self.folder / "numbers"
        shutil.rmtree(self.images, ignore_errors=True)
        images, labels = np.load(self.files["images"]), np.load(self.files["labels"])
        with MDSWriter(out=str(self.images), columns={"image": "ndarray:uint8:28,28", "label": "int"}) as writer:
            for image, label in zip(images, labels.tolist(), strict=True):
                writer.write({"image": image, "label": label})
        self.loader: Any = None

    def grid(self, what: str, batch: int) -> list[Configuration]:
        """The default shuffle and the plain global one, with 0, 1 and 2 workers that outlive an epoch."""
        algorithms = ("py1e", "naive") if what == "images" else ()
        return [
            {"as": "Streaming", "way": algorithm, "workers": workers}
            for algorithm in algorithms
            for workers in (0, 1, 2)
        ]

    def epochs(self, what: str, batch: int, configuration: Configuration) -> Epochs:
        """A loader that is iterated once per epoch."""
        workers = configuration["workers"]
        dataset = Images(local=str(self.images), shuffle=True, shuffle_algo=configuration["way"], batch_size=batch)
        self.loader = StreamingDataLoader(
            dataset, batch_size=batch, num_workers=workers, persistent_workers=workers > 0
        )
        return partial(iter, self.loader)

    def close(self) -> None:
        """Let the workers end and the shared memory go."""
        self.loader = None
        clean_stale_shared_memory()

    def end(self) -> None:
        """Delete the shared memory that the ranks of elastic epochs left: the library's own cleaning misses some."""
        self.close()
        for path in _shared_memory() - self.there_before:
            path.unlink(missing_ok=True)

    def elastic(self, way: str, schedule: Schedule, records: int, batch: int) -> Iterator[Phase]:
        """Every rank is a process of one group; rank 0's state is loaded by all ranks of the next phase."""
        shutil.rmtree(self.numbers, ignore_errors=True)
        with MDSWriter(out=str(self.numbers), columns={"number": "int"}) as writer:
            for number in range(records):
                writer.write({"number": number})
        state: Any = None
        for world, steps in schedule:
            clean_stale_shared_memory()
            answers = _run_ranks(world, self.numbers, int(way.split()[1]), max(1, batch // world), steps, state)
            phase = Phase(world=world)
            for numbers, _state in answers:
                phase.batches.append(numbers)
            state = answers[0][1]
            yield phase


def _shared_memory() -> set[Path]:
    """Pieces of shared memory that bear names as the library gives them."""
    return set(Path("/dev/shm").glob("[0-9][0-9][0-9][0-9][0-9][0-9]_*"))


def _run_ranks(world: int, *arguments: Any) -> list[tuple[list[list[int]], Any]]:
    """Run one process per rank; what each delivered, and its state."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    try:
        for rank in range(world):
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=_run_rank, args=(sending, rank, world, port, *arguments))
            process.start()
            sending.close()
            pipes.append(receiving)
            processes.append(process)
        answers = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(PATIENCE):
                raise RefusedError(f"hung: rank {rank} of {world} did not end within {PATIENCE:.0f} s")
            answers.append(pipe.recv())
    except EOFError:
        raise RefusedError(f"a rank of {world} died") from None
    finally:
        for process in processes:
            process.join(0.5)
            process.kill()
            process.join()
    for answer in answers:
        if isinstance(answer, str):
            raise RefusedError(answer)
    return answers


def _run_rank(
    pipe: Connection, rank: int, world: int, port: int, folder: Path, workers: int, batch: int, steps: int, state: Any
) -> None:
    ranks = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch, num_canonical_nodes=1)
        loader = StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)
        if state is not None:
            loader.load_state_dict(state)
        numbers = [piece["number"].tolist() for piece in islice(iter(loader), steps)]
        pipe.send((numbers, loader.state_dict()))
    except Exception as error:  # noqa: BLE001  # handed to the parent, which reports it
        pipe.send(f"{type(error).__name__}: {error}")
    pipe.close()
    os._exit(0)  # a loader in mid-epoch waits for its threads


if __name__ == "__main__":
    serve(Streaming())
