"""The loop that a person would write: DistributedDataParallel over gloo, one thread, Adam, global batches of 128.

`RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m benchmarks.peers_training.ddp nchw|nhwc STEPS`: for each
line on standard input it takes so many steps and answers with wall and CPU seconds.
"""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training_parts import Images, model


def main(layout: str, steps: int) -> None:
    """Serve blocks of steps."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    network = DistributedDataParallel(model().to(memory_format=memory))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    source = Images()
    epoch = 0
    batches = source.batches(epoch, first=rank, last=rank + 1, of=world)
    for _line in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            batch = next(batches, None)
            if batch is None:
                epoch += 1
                batches = source.batches(epoch, first=rank, last=rank + 1, of=world)
                batch = next(batches)
            images = torch.from_numpy(batch["image"])
            labels = torch.from_numpy(batch["label"]).long()
            optimizer.zero_grad()
            loss = cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
        print(time.perf_counter() - began, time.process_time() - used, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
