"""Processes that sum vectors, ours and gloo's, on command.

`python -m benchmarks.training_all_reduce WORLD LENGTH`: forks, then reads words from standard input (`in_place`,
`copied`, `gloo`) and answers each with the seconds of one sum, the median of a few.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed

from ganglion.training.memory import Slots
from ganglion.training.mesh import Link, Mesh
from ganglion.training.shared import SharedMemoryCollective


def main(world: int, length: int) -> None:
    """Fork, connect, and serve commands at rank 0."""
    torch.set_num_threads(1)
    pairs = {(low, high): socket.socketpair() for high in range(world) for low in range(high)}
    meeting = tempfile.mktemp()  # FileStore makes the file
    rank = 0
    for other in range(1, world):
        if os.fork() == 0:
            rank = other
            break
    links = {}
    for (low, high), (first, second) in pairs.items():
        for end, owner, peer in ((first, low, high), (second, high, low)):
            if owner == rank:
                links[peer] = Link(end)
            else:
                end.close()
    mesh = Mesh(rank, links)
    slots = Slots(1, length, torch.float32)
    collective = SharedMemoryCollective(mesh, slots, logical=world)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = torch.distributed.FileStore(meeting, world)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    vector = torch.randn(length, generator=torch.Generator().manual_seed(rank))
    copy = torch.empty_like(vector)
    gradients = torch.empty_like(vector)
    spans = [range(number, number + 1) for number in range(world)]

    def in_place() -> None:
        collective.reduce(spans, b"", lambda _notes: 1.0)

    def copied() -> None:
        slots[0].copy_(vector)
        in_place()
        copy.copy_(collective.result)

    def gloo() -> None:
        torch.distributed.all_reduce(gradients)

    ways: dict[str, Callable[[], None]] = {"in_place": in_place, "copied": copied, "gloo": gloo}
    rounds = 3 if length > 5_000_000 else 30
    while True:
        word = sys.stdin.readline().strip() if rank == 0 else ""
        word = collective.gather(word.encode())[0].decode()
        if not word:
            break
        seconds = []
        for _ in range(rounds):
            slots[0].copy_(vector)
            gradients.copy_(vector)
            collective.gather(b"")
            began = time.perf_counter()
            ways[word]()
            seconds.append(time.perf_counter() - began)
        if rank == 0:
            print(statistics.median(seconds), flush=True)
    if rank == 0:
        for _ in range(1, world):
            os.wait()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
