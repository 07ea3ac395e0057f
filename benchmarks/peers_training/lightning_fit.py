"""Lightning's `Trainer` with its DDP strategy over gloo, one thread, Adam, as its pages show it.

`NODE_RANK=0 MASTER_ADDR=... MASTER_PORT=... python -m benchmarks.peers_training.lightning_fit FOLDER STEPS`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.peers_training.blocks import Blocks, batches
from benchmarks.peers_training.workload import network

WORLD = 2


class Shuffled(IterableDataset[Any]):
    """Batches that are put together already: the loader has nothing to collate."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels in batches(int(os.environ["NODE_RANK"]), WORLD):
            yield torch.from_numpy(images), torch.from_numpy(labels)


class Classifier(lightning.LightningModule):
    """The reference model."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        """The loss of a batch."""
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images.unsqueeze(1).float() / 255), labels.long())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.001, fused=True)


class Commands(lightning.Callback):
    """Steps on command."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the first permission."""
        trainer.should_stop = not self._blocks.wait()

    def on_train_batch_end(self, trainer: Any, *_arguments: Any) -> None:
        """A step has been taken."""
        trainer.should_stop = not self._blocks.step()


def main(folder: str, steps: int) -> None:
    """Train until no permission comes."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=WORLD,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_steps=-1,
        max_epochs=-1,
        min_epochs=0,
        callbacks=[Commands(Blocks(folder, int(os.environ["NODE_RANK"]), steps))],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Classifier(), DataLoader(Shuffled(), batch_size=None))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
