"""Processes are killed at random while an epoch is delivered; every record is delivered once, in the same batches."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from loading_records import TRANSFORMS

from ganglion.data import Loader
from ganglion.data.dataset.prepared import PreparedDataset

HERE = Path(__file__).parent
WORLDS = (2, 1, 3)
PATIENCE = 60.0


class Rank:
    """A rank as a process."""

    def __init__(self, dataset: PreparedDataset, options: dict, state: dict | None) -> None:
        artifact = json.dumps(msgspec.to_builtins(dataset.artifact))
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "rank_process.py"),
                str(dataset.store.root),
                artifact,
                json.dumps(options),
                json.dumps(state),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seen: set[psutil.Process] = set()

    def ask(self) -> None:
        with suppress(BrokenPipeError):  # it was killed, which shows in its answer
            self.process.stdin.write("next\n")
            self.process.stdin.flush()

    def answer(self) -> dict | None:
        """What it delivered; `None` if it is dead."""
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def workers(self) -> list[psutil.Process]:
        """The processes that it started; those of them that are gone are remembered."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update(found)
        return found

    def end(self) -> None:
        self.workers()
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def survive(dataset: PreparedDataset, batch: int, kills: int, seed: int) -> tuple[list[list[int]], int]:
    """Deliver an epoch while processes are killed; the ids of each global batch, and how often ranks began.

    A step counts when every rank has delivered it. When a rank dies, all are ended, and another number of them goes on
    from the last step that counts.
    """
    chance = random.Random(seed)
    options = {"global_batch": batch, "seed": 5, "workers": "processes", "parallel": 2, "memory": 2**21}
    steps = -(-dataset.count // batch)
    due = sorted(chance.choices(range(1, steps - 1), k=kills))
    committed: list[list[int]] = []
    state: dict | None = None
    seen: set[psutil.Process] = set()
    generation = 0
    while len(committed) < steps:
        world = WORLDS[generation % len(WORLDS)]
        generation += 1
        ranks = [Rank(dataset, options | {"rank": rank, "world": world}, state) for rank in range(world)]
        assert all(rank.answer() for rank in ranks)
        while len(committed) < steps:
            for rank in ranks:
                rank.ask()
            while due and due[0] <= len(committed):
                due.pop(0)
                rank = chance.choice(ranks)
                workers = rank.workers()
                victim = rank.process if chance.random() < 0.15 or not workers else chance.choice(workers)
                try:
                    victim.kill()
                except psutil.NoSuchProcess:
                    due.append(len(committed))  # it was gone; another one is killed in its place
            answers = [rank.answer() for rank in ranks]
            if None in answers:
                break
            assert len({json.dumps(answer["state"]) for answer in answers}) == 1
            state = answers[0]["state"]
            committed.append([record for answer in answers for record in answer["ids"]])
        for rank in ranks:
            rank.end()
            seen |= rank.seen
    _, alive = psutil.wait_procs(seen, timeout=PATIENCE)
    assert not alive, "processes were left behind"
    assert not due
    return committed, generation


@pytest.mark.parametrize("kills", [15, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_whoever_is_killed_every_record_is_delivered_once_in_its_batch(packed, kills: int) -> None:
    batch = max(2, packed.count // (3 * kills))
    before = set(os.listdir("/dev/shm"))
    descriptors = psutil.Process().num_fds()
    one = Loader(packed, global_batch=batch, seed=5, transforms=TRANSFORMS)
    expected = [whole.ids.tolist() for whole in one]
    begin = time.monotonic()
    delivered, beginnings = survive(packed, batch, kills, seed=kills)
    assert delivered == expected
    assert beginnings > 1, "a rank was among those that were killed"
    assert time.monotonic() - begin < 1000, "nobody hung"
    assert len(set(np.concatenate(expected).tolist())) == one.delivered.count
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "ganglion" in name]
    assert psutil.Process().num_fds() == descriptors
