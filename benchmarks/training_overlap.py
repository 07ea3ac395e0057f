"""Steps of a large model on two hosts with and without overlap: `python -m benchmarks.training_overlap [MBIT ...]`.

The hosts are network namespaces of this machine, joined by a link of a given rate; that needs root. Each of two
processes computes the gradients of 25 million parameters on one slice, which are then, or meanwhile, summed.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import nn

from ganglion.execution.entry import Entry
from ganglion.training import Factory, TrainingPlan
from ganglion.training.computation import Computation
from ganglion.training.gradients import Gradients
from ganglion.training.losses import load_loss
from ganglion.training.memory import Slots
from ganglion.training.mesh import Link, Mesh
from ganglion.training.statistics import RunningStatistics
from ganglion.training.tcp import TcpCollective
from ganglion.training.tensors import Columnizer

WIDTH, LAYERS = 1448, 12
"""12 x 1448 x 1449 parameters: about 25 million."""

_NEWNET = 0x40000000
_PORT = 5000


def main() -> None:
    """Measure at each rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rates", type=int, nargs="*", default=[1000, 2000, 5000], help="Mbit/s in each direction")
    parser.add_argument("--records", type=int, default=128, help="in a slice")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    for rate in options.rates:
        with hosts(rate) as names:
            other = os.fork()
            rank = int(other == 0)
            seconds = steps(rank, names[rank], options.records, options.rounds)
            if rank:
                os._exit(0)
            os.waitpid(other, 0)
        after, meanwhile = (statistics.median(seconds[overlap]) for overlap in (False, True))
        ratio = statistics.median(a / b for a, b in zip(seconds[False], seconds[True], strict=True))
        print(
            f"{rate} Mbit/s: {1000 * after:.0f} ms a step without overlap, {1000 * meanwhile:.0f} ms with it; median "
            f"of paired ratios {ratio:.2f}"
        )


@contextmanager
def hosts(rate: int) -> Iterator[list[str]]:
    """Two namespaces with the addresses 10.79.0.1 and 10.79.0.2; their names."""
    names = [f"ganglion-bench-{os.getpid()}-{side}" for side in "ab"]
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run(*f"ip link add veth0 netns {names[0]} type veth peer name veth0 netns {names[1]}".split())
        for number, name in enumerate(names, 1):
            _run(*f"ip -n {name} addr add 10.79.0.{number}/24 dev veth0".split())
            _run(*f"ip -n {name} link set lo up".split())
            _run(*f"ip -n {name} link set veth0 up".split())
            shape = f"tc qdisc add dev veth0 root tbf rate {rate}mbit burst {max(128_000, 125 * rate)} latency 20ms"
            _run("ip", "netns", "exec", name, *shape.split())
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def steps(rank: int, host: str, records: int, rounds: int) -> dict[bool, list[float]]:
    """Take steps in turn; the seconds of each, by whether sums overlapped with gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mesh = Mesh(rank, {1 - rank: Link(_connected(rank, host))})
    model = nn.Sequential(*(part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))
    random = np.random.default_rng(rank)
    columns = {name: random.normal(size=(records, WIDTH)).astype(np.float32) for name in "xy"}
    nothing = Factory(entry=Entry(path="builtins:object"))
    gradients = Gradients(list(model.parameters()))
    slots = Slots(2, gradients.length, gradients.dtype)
    computation = Computation(
        TrainingPlan(model=nothing, train=nothing, loss="mean_squared_error"),
        model=model,
        loss=load_loss("mean_squared_error"),
        columnizer=Columnizer(input_column="x", target_column="y", channels_last=False),
        statistics=RunningStatistics(model, lambda: None),
        gradients=gradients,
        slots=slots,
        logical=2,
    )
    collective = TcpCollective(mesh, slots, logical=2)
    spans = [range(1), range(1, 2)]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    digests = set()
    for turn in range(rounds + 1):
        for overlap in seconds:
            collective.gather(b"")
            began = time.perf_counter()
            complete = collective.overlap(spans) if overlap else None
            computation.accumulate(0, spans[rank], {rank: columns}, complete)
            collective.reduce(spans, b"", lambda _notes: 2.0 * records)
            if turn:
                seconds[overlap].append(time.perf_counter() - began)
            digests.add(hashlib.sha256(collective.result.numpy().tobytes()).hexdigest())
    assert len(digests) == 1, "the bits differ"
    collective.close()
    return seconds


def _connected(rank: int, host: str) -> socket.socket:
    """Enter a host and connect with the other one."""
    with open(f"/run/netns/{host}", "rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if rank == 0:
        with socket.create_server(("10.79.0.1", _PORT)) as server:
            return server.accept()[0]
    while True:
        with suppress(OSError):
            return socket.create_connection(("10.79.0.1", _PORT))
        time.sleep(0.05)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
