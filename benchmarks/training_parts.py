"""What the benchmarks of training consist of: the reference model, images in memory, and a watch for every commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes.fashion_mnist import ConvolutionalNetwork

from ganglion.execution.member import current_member
from ganglion.training.callbacks import Callback, Training

IMAGES = 12_800


def model(**arguments: Any) -> torch.nn.Module:
    """The reference model."""
    return ConvolutionalNetwork(**arguments)


class Images:
    """Random images with random labels, shuffled by (seed, epoch): as much work as real ones.

    There are no more different ones than `IMAGES`, so that a source is as soon open as a prepared dataset.
    """

    def __init__(self, *, count: int = IMAGES, global_batch: int = 128) -> None:
        random = np.random.default_rng(0)
        self.count = count
        self.global_batch = global_batch
        self.steps_per_epoch = -(-count // global_batch)
        different = min(count, IMAGES)
        self.columns = {
            "image": random.integers(0, 256, (different, 28, 28), dtype=np.uint8),
            "label": random.integers(0, 10, different, dtype=np.uint8),
        }

    def batches(self, epoch: int, *, first: int, last: int, of: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """As `BatchSource` says."""
        order = np.random.default_rng((1, epoch)).permutation(self.count)
        for step in range(start, self.steps_per_epoch):
            batch = order[step * self.global_batch : (step + 1) * self.global_batch]
            picked = batch[first * len(batch) // of : last * len(batch) // of]
            yield {name: column[picked % len(column)] for name, column in self.columns.items()}


class Watch(Callback):
    """Writes down when each step was committed, and the CPU seconds used until then; in each process."""

    replicated = True

    def __init__(self, *, folder: str) -> None:
        member = current_member()
        self._file = (Path(folder) / f"{member.name}.{member.attempt}").open("w")

    def get_state(self) -> dict[str, Any]:
        """Nothing that another process needs."""
        return {}

    def on_step_end(self, training: Training) -> None:
        """One line for a step."""
        self._file.write(f"{training.step} {time.monotonic()} {time.process_time()}\n")
        self._file.flush()


class Blocks(Callback):
    """Lets a worker take so many steps for each permission, and tells how long they took.

    Args:
        folder: with a FIFO `<member>.go` that permissions come from and one `<member>.done` that figures go to.
        steps: in a block.
    """

    replicated = True

    def __init__(self, *, folder: str, steps: int) -> None:
        name = current_member().name
        self._go = Path(folder) / f"{name}.go"
        self._done = Path(folder) / f"{name}.done"
        self._steps = steps
        self._began, self._used = 0.0, 0.0

    def get_state(self) -> dict[str, Any]:
        """Nothing that another process needs."""
        return {}

    def on_train_start(self, training: Training) -> None:
        """Wait for the first permission."""
        self._wait()

    def on_step_end(self, training: Training) -> None:
        """Tell of a block and wait for the next permission."""
        if training.step % self._steps == 0:
            wall, cpu = time.perf_counter() - self._began, time.process_time() - self._used
            self._done.write_text(f"{wall} {cpu}\n")
            self._wait()

    def _wait(self) -> None:
        self._go.read_bytes()
        self._began, self._used = time.perf_counter(), time.process_time()


def read(folder: Path, member: str, attempt: int = 1) -> list[tuple[int, float, float]]:
    """Steps, monotonic seconds and CPU seconds that a member has written down so far."""
    path = folder / f"{member}.{attempt}"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        (int(step), float(at), float(cpu)) for step, at, cpu in (line.split() for line in lines if line.count(" ") == 2)
    ]
