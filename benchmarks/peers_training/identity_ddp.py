"""One rank of a DistributedDataParallel training of some steps; rank 0 prints a digest of what it ended with.

`RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m benchmarks.peers_training.identity_ddp VARIANT STEPS`:
the same model, global batches and seed whatever the number of ranks.
"""

from __future__ import annotations

import hashlib
import os
import sys

import torch
import torch.distributed
from recipes.fashion_mnist import VARIANTS
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training_parts import Images, model


def main(variant: str, steps: int) -> None:
    """Train and tell."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    network = DistributedDataParallel(model(**VARIANTS[variant]))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    torch.manual_seed(rank)
    for batch in Images(count=128 * steps).batches(0, first=rank, last=rank + 1, of=world):
        optimizer.zero_grad()
        cross_entropy(network(torch.from_numpy(batch["image"])), torch.from_numpy(batch["label"]).long()).backward()
        optimizer.step()
    digest = hashlib.sha256()
    for tensor in network.module.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    if rank == 0:
        sys.stdout.write(digest.hexdigest() + "\n")
    torch.distributed.barrier()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
