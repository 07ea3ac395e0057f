"""Data parallelism by torchft: replica groups of one process, a manager for each, and a lighthouse.

`python -m benchmarks.peers_training.torchft_ddp FOLDER WORKERS` starts the lighthouse with the defaults of its command
and the replicas, and replaces those that die.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import torch
from torch.distributed import TCPStore
from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo
from torchft.coordination import LighthouseServer

from benchmarks.peers_training.workload import Log, learn, network


def replica(folder: str, index: int, workers: int) -> None:
    """Train until ended, as one replica group."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    model = network()
    inner = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)

    def load(state: dict) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=5)),
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": inner.state_dict()},
        min_replica_size=1,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        replica_id=f"replica_{index}_",
        hostname="127.0.0.1",
    )
    wrapped, optimizer = DistributedDataParallel(manager, model), Optimizer(manager, inner)
    log, last = Log(folder, index), -1
    while True:
        learn(wrapped, optimizer, manager.current_step(), index, max(1, manager.num_participants() or workers))
        if (step := manager.current_step()) != last:
            last = step
            log.committed(step)


def main(folder: str, workers: int) -> None:
    """Run replicas until ended."""
    # As `torchft_lighthouse --min_replicas 1` has them: 60 s for stragglers, a look every 0.1 s, 5 s of silence.
    lighthouse = LighthouseServer(
        "127.0.0.1:0", 1, join_timeout_ms=60_000, quorum_tick_ms=100, heartbeat_timeout_ms=5000
    )
    environment = os.environ | {"TORCHFT_LIGHTHOUSE": lighthouse.address()}

    def start(index: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "benchmarks.peers_training.torchft_ddp", folder, str(workers), str(index)]
        return subprocess.Popen(command, env=environment)

    running = {index: start(index) for index in range(workers)}
    pids = {process.pid: index for index, process in running.items()}
    while True:
        pid, _ = os.wait()
        index = pids.pop(pid)
        running[index] = start(index)
        pids[running[index].pid] = index


if __name__ == "__main__":
    if len(sys.argv) > 3:
        replica(sys.argv[1], int(sys.argv[3]), int(sys.argv[2]))
    else:
        main(sys.argv[1], int(sys.argv[2]))
