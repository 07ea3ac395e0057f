"""DistributedDataParallel in a `TorchTrainer` of Ray Train with a `FailureConfig`.

`python -m benchmarks.peers_training.ray_train FOLDER WORKERS`: a checkpoint is reported every half second, as each
takes several steps; the documented form, once in an epoch, would lose more.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from benchmarks.peers_training.workload import Log, learn, network, save

APART = 0.5
"""Seconds between two checkpoints."""


def train(config: dict[str, Any]) -> None:
    """Train until ended; on each worker."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    model = prepare_model(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    step, saved = 0, time.monotonic()
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = Log(config["folder"], rank)
    due = torch.zeros(1)
    while True:
        learn(model, optimizer, step, rank, world)
        step += 1
        due[0] = float(time.monotonic() - saved >= APART)
        torch.distributed.broadcast(due, 0)  # everybody reports, or nobody
        if due:
            saved = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                if rank == 0:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    save(state, Path(folder) / "state.pt")
                ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder) if rank == 0 else None)
        log.committed(step)


def main(folder: str, workers: int) -> None:
    """Run the trainer on a cluster of this process's own."""
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    os.environ.update(environment)
    ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    TorchTrainer(
        train,
        train_loop_config={"folder": folder},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=f"{folder}/ray", failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
