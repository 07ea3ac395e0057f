"""What the peers of the recovery benchmark train, and the log they keep; needs nothing but torch and NumPy.

The network has the 93,322 parameters of the reference model, the batches are as large. Each process writes its id and
then a line for every step that it has committed, with the system-wide monotonic clock.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

BATCH = 128
"""Images in a step, over all processes."""


def network() -> nn.Module:
    """Three convolutions and two dense layers."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10)),
    ).to(memory_format=torch.channels_last)


def batch(step: int, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of one process in one step."""
    random = torch.Generator().manual_seed(1000 * step + rank)
    size = BATCH // world
    images = torch.randint(0, 256, (size, 1, 28, 28), generator=random).float() / 255
    return images, torch.randint(0, 10, (size,), generator=random)


def learn(model: nn.Module, optimizer: Any, step: int, rank: int, world: int) -> None:
    """Take a step."""
    images, labels = batch(step, rank, world)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


class Log:
    """The committed steps of this process.

    Args:
        folder: for the logs of all processes.
        rank: of this process.
    """

    def __init__(self, folder: str, rank: int) -> None:
        self._file = (Path(folder) / f"{rank}.{os.getpid()}").open("w")

    def committed(self, step: int) -> None:
        """Write down that a step is done."""
        self._file.write(f"{step} {time.monotonic()}\n")
        self._file.flush()


def save(state: Any, path: Path) -> None:
    """Write a snapshot so that it is complete or not there."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
