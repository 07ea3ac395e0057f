"""DistributedDataParallel in a `TorchTrainer` of Ray Train, blocks of steps on command.

`python -m benchmarks.peers_training.ray_blocks FOLDER STEPS`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from benchmarks.peers_training.blocks import Blocks, batches
from benchmarks.peers_training.workload import network


def train(config: dict[str, Any]) -> None:
    """Train until no permission comes; on each worker."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    model = prepare_model(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    blocks = Blocks(config["folder"], rank, config["steps"])
    going = blocks.wait()
    for images, labels in batches(rank, world):
        if not going:
            break
        optimizer.zero_grad()
        outputs = model(torch.from_numpy(images).unsqueeze(1).float() / 255)
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels).long())
        loss.backward()
        optimizer.step()
        loss.item()
        going = blocks.step()


def main(folder: str, steps: int) -> None:
    """Run the trainer on a cluster of this process's own."""
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    os.environ.update(environment)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    TorchTrainer(
        train,
        train_loop_config={"folder": folder, "steps": steps},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=f"{folder}/ray"),
    ).fit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
