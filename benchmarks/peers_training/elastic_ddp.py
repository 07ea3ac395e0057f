"""DistributedDataParallel under torchrun, with a snapshot that a restarted group goes on from.

`python -m torch.distributed.run --nproc-per-node=N --max-restarts=3 -m benchmarks.peers_training.elastic_ddp FOLDER`:
rank 0 saves after every step, so that no step is lost; that is what a recovery can gain by snapshots.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers_training.workload import Log, learn, network, save


def main(folder: str) -> None:
    """Train until ended."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    snapshot, step = Path(folder) / "snapshot.pt", 0
    if snapshot.exists():
        state = torch.load(snapshot)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = Log(folder, rank)
    while True:
        learn(model, optimizer, step, rank, world)
        step += 1
        if rank == 0:
            save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, snapshot)
        log.committed(step)


if __name__ == "__main__":
    main(sys.argv[1])
