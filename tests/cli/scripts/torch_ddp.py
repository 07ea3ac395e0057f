# ruff: noqa: T201
"""Linear regression with DistributedDataParallel; started with torchrun or anything that sets its variables."""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(rank)  # DDP sends the weights of rank 0 to everybody
    model = DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    true_weights = torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    for _epoch in range(arguments.epochs):
        for _step in range(50):
            inputs = torch.randn(32, 4)
            loss = nn.functional.mse_loss(model(inputs), inputs @ true_weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    total = weights.clone()
    dist.all_reduce(total)
    same = torch.allclose(total, weights * world)
    print(f"rank {rank} of {world}: epochs {arguments.epochs}, loss {loss.item():.5f}, same weights: {same}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
