"""The training that one would write by hand: plain PyTorch, one process, one file, nothing of Ganglion.

It is here to be compared with: the same network, optimizer, batches and schedule as `one_network.py`.

    python recipes/plain_torch.py --folder /usr/share/datasets/fashion-mnist --epochs 2
"""

import argparse
import gzip
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def read_idx(folder: Path, name: str) -> Tensor:
    """An IDX file: magic number with the number of dimensions, their sizes as big-endian uint32, the bytes."""
    packed = folder / f"{name}.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    dimensions = data[3]
    sizes = np.frombuffer(data, ">u4", dimensions, offset=4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(*sizes).copy())


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose class the model says."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(i.float() / 255).argmax(1) == t).sum()) for i, t in batches(images, labels, 1000))
    model.train()
    return right / len(labels)


def batches(images: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The records in order, some at a time."""
    return list(zip(torch.split(images, size), torch.split(labels, size), strict=True))


def main() -> None:
    """Train and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit", type=int, help="use only so many records")
    options = parser.parse_args()

    images = read_idx(options.folder, "train-images-idx3-ubyte")[: options.limit]
    labels = read_idx(options.folder, "train-labels-idx1-ubyte")[: options.limit].long()
    held_out = len(images) // 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003, fused=True)
    steps = options.epochs * -(-(len(images) - held_out) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=steps)
    for epoch in range(options.epochs):
        begin = time.perf_counter()
        order = held_out + torch.randperm(len(images) - held_out)
        for batch, targets in batches(images[order], labels[order], options.batch):
            loss = nn.functional.cross_entropy(model(batch.float() / 255), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        speed = len(order) / (time.perf_counter() - begin)
        found = accuracy(model, images[:held_out], labels[:held_out])
        sys.stdout.write(f"epoch {epoch + 1} of {options.epochs}: accuracy {found:.4f}  {speed:,.0f} records/s\n")


if __name__ == "__main__":
    main()
