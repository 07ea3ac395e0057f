"""What the peers of the throughput benchmark share: the data, and blocks of steps on command; needs NumPy alone.

The images are as many and as large as those of `benchmarks.training_parts`, in memory, and shuffled by the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IMAGES, BATCH = 12_800, 128


def columns() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [records, 28, 28] and labels [records]."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 28, 28)).astype(np.uint8)
    return images, random.integers(0, 10, IMAGES).astype(np.uint8)


def batches(rank: int, world: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """One process's part of global batches, epoch after epoch."""
    images, labels = columns()
    epoch = 0
    while True:
        order = np.random.default_rng((1, epoch)).permutation(IMAGES)
        for begin in range(0, IMAGES, BATCH):
            batch = order[begin : begin + BATCH]
            picked = batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]
            yield images[picked], labels[picked]
        epoch += 1


class Blocks:
    """Lets a process take so many steps for each permission, and tells how long they took.

    Args:
        folder: with a FIFO `<rank>.go` that permissions come from and one `<rank>.done` that figures go to.
        rank: of this process.
        steps: in a block.
    """

    def __init__(self, folder: str, rank: int, steps: int) -> None:
        self._go, self._done = Path(folder) / f"{rank}.go", Path(folder) / f"{rank}.done"
        self._steps = steps
        self._taken = 0
        self._began, self._used = 0.0, 0.0

    def wait(self) -> bool:
        """Wait for a permission; whether there is one."""
        word = self._go.read_bytes()
        self._began, self._used = time.perf_counter(), time.process_time()
        return bool(word)

    def step(self) -> bool:
        """A step has been taken; whether there is to be another."""
        self._taken += 1
        if self._taken % self._steps:
            return True
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._used
        self._done.write_text(f"{wall} {cpu}\n")
        return self.wait()
