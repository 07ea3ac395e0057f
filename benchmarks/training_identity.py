"""How many different results one training has: `python -m benchmarks.training_identity`.

Each of the three reference networks is trained on 1, 2, 3, 4 and 8 workers, undisturbed and under drawn schedules of
faults. The digests of ours cover weights, the state of the optimizer and the position in the data. Beside them stands
DistributedDataParallel with the same global batches and seed, undisturbed; its digests cover the weights alone.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from recipes.fashion_mnist import VARIANTS
from rich.console import Console
from rich.table import Table

from benchmarks.harness import environment
from benchmarks.training_gangs import ROOT, Trainings
from ganglion.core.errors import ConfigurationError
from ganglion.execution.entry import Entry
from ganglion.testing.faults import draw
from ganglion.training import Factory

WORKERS = (1, 2, 3, 4, 8)
LOGICAL = 8
STEPS = 6
_SHOWN = 8


def ours(trainings: Trainings, variant: str, workers: int, seed: int | None) -> str:
    """The digest of one training; under the schedule drawn from a seed, if there is one."""
    model = Factory(entry=Entry(path="benchmarks.training_parts:model"), arguments=dict(VARIANTS[variant]))
    faults = () if seed is None else draw(seed, workers=workers, steps=STEPS)
    job, _ = trainings.submit(workers, LOGICAL, steps=STEPS, faults=faults, model=model)
    outcome = job.wait(300)
    outcome.raise_for_failure()
    digest: str = outcome.value["digest"]
    return digest


def by_hand(variant: str, workers: int) -> str:
    """The digest of DistributedDataParallel."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-m", "benchmarks.peers_training.identity_ddp", variant, str(STEPS)]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | place | {"RANK": str(rank)}
        )
        for rank in range(workers)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise ConfigurationError(f"DistributedDataParallel on {workers} processes has failed.")
    return said[0].strip()


def compare(schedules: int) -> None:
    """Train and show the table.

    Args:
        schedules: for each network and number of workers.
    """
    table = Table(
        "network", title=f"digests after {STEPS} steps; {schedules} schedules of faults for each cell of ours"
    )
    for workers in WORKERS:
        table.add_column(f"{workers} worker{'s' if workers > 1 else ''}")
    table.add_column("distinct", justify="right")
    with Trainings() as trainings:
        for number, variant in enumerate(VARIANTS):

            def on(workers: int, variant: str = variant, number: int = number) -> set[str]:
                first = 1000 * number + 100 * workers
                return {ours(trainings, variant, workers, seed) for seed in (None, *range(first, first + schedules))}

            _row(table, f"ours, {variant}", on)
            _row(table, f"DDP, {variant}", lambda workers, variant=variant: {by_hand(variant, workers)})
    console = Console(width=max(Console().width, 120))
    console.print(", ".join(f"{name} {value}" for name, value in environment(("torch",)).items()), highlight=False)
    console.print(table)


def _row(table: Table, name: str, digests_on: Callable[[int], set[str]]) -> None:
    found = [digests_on(workers) for workers in WORKERS]
    cells = [" ".join(sorted(digest[:_SHOWN] for digest in digests)) for digests in found]
    table.add_row(name, *cells, str(len(set().union(*found))))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=2, help="of faults, for each network and number of workers")
    compare(parser.parse_args().schedules)


if __name__ == "__main__":
    main()
