"""What a checkpoint adds to a training, ours and others': `python -m benchmarks.training_checkpoints [--json]`.

One process trains a perceptron with AdamW whose weights and optimizer state take 400 MB. A block is some steps; in
every second one a checkpoint is saved after the first step, and the block ends when that is on the disk (as far as the
method waits for it). What a checkpoint adds is the time of such a block, less that of as many steps without one: both
the wait of the training and what writing in the background slows it down count.

With `--busy` the other core computes too, as it does in a training with a worker for each core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
import torch.distributed
import torch.distributed.checkpoint as dcp

from benchmarks.harness import Case, Measurement, environment, show
from ganglion.training.checkpoints import Checkpointing, Progress, Recipe, Saver

WIDTH, LAYERS = 2048, 8
"""8 layers of 2048 x 2048: 33.6 million parameters, 403 MB with AdamW's two moments."""

BATCH = 16
"""Records in a step."""

Finish = Callable[[bool], bool]
"""Of a checkpoint that was begun: whether it is done; if told so, waits for that."""


class Trainer:
    """A model, its optimizer, and one batch, again and again."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self._inputs = torch.randn(BATCH, WIDTH)

    def step(self) -> None:
        """Take a step."""
        self.optimizer.zero_grad(set_to_none=False)
        self.model(self._inputs).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """What is saved."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class Methods:
    """The ways to save; each begins a checkpoint and returns how to find out that it is done."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._trainer = trainer
        self._folder = folder
        self._count = 0
        self._saver = Saver(
            Checkpointing(folder=str(folder / "ganglion"), keep_last=1), recipe=Recipe(plan={}, arithmetic={})
        )

    def ganglion(self) -> Finish:
        """Ours: verified by checksums, flushed to the disk, atomic."""
        self._count += 1
        progress = Progress(step=self._count, epoch=0, batch=self._count)
        while not self._saver.save(self._trainer.state(), progress):
            self._trainer.step()  # the first time, while memory is made
        return self._saver.settled

    def dcp_save(self) -> Finish:
        """`torch.distributed.checkpoint.save`: flushed to the disk."""
        dcp.save(self._trainer.state(), checkpoint_id=self._new())
        return _done

    def dcp_async_save(self) -> Finish:
        """`torch.distributed.checkpoint.async_save`, with its default staging and thread."""
        response = dcp.async_save(self._trainer.state(), checkpoint_id=self._new())
        return lambda wait: response.result() is not None if wait else response.done()

    def torch_save(self) -> Finish:
        """`torch.save`: neither flushed nor atomic."""
        torch.save(self._trainer.state(), self._new())
        return _done

    def safetensors(self) -> Finish:
        """`safetensors.torch.save_file` of all tensors: neither flushed nor atomic."""
        state = self._trainer.state()
        moments = {
            f"{number}.{name}": tensor
            for number, entry in state["optimizer"]["state"].items()
            for name, tensor in entry.items()
        }
        safetensors.torch.save_file({**state["model"], **moments}, self._new())
        return _done

    def remove_old(self) -> None:
        """Remove what the others left; outside of what is timed."""
        for old in self._folder.glob("peer-*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()

    def _new(self) -> str:
        """A path that does not exist."""
        self._count += 1
        return str(self._folder / f"peer-{self._count}")


class Added(NamedTuple):
    """What a checkpoint costs: seconds added to the training, seconds that it stood still, added processor seconds."""

    wall: float
    wait: float
    processor: float


def added(trainer: Trainer, save: Callable[[], Finish], steps: int) -> Added:
    """What a checkpoint adds: a block with one, less its number of steps as they take before and after it."""

    def plain() -> tuple[float, float]:
        began, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            trainer.step()
        return (time.perf_counter() - began) / steps, (time.process_time() - used) / steps

    before = plain()
    began, used = time.perf_counter(), time.process_time()
    trainer.step()
    stopped = time.perf_counter()
    finish = save()
    wait = time.perf_counter() - stopped
    taken = 1
    while taken < steps or not finish(False):
        trainer.step()
        taken += 1
    finish(True)
    wall, processor = time.perf_counter() - began, time.process_time() - used
    after = plain()
    return Added(
        max(wait, wall - taken * statistics.mean((before[0], after[0]))),  # it stood still at least so long
        wait,
        processor - taken * statistics.mean((before[1], after[1])),
    )


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="checkpoints of each kind, interleaved")
    parser.add_argument("--steps", type=int, default=4, help="least steps in a block")
    parser.add_argument("--busy", action="store_true", help="the other core computes too")
    parser.add_argument("--folder", type=Path, help="where to save; by default a new folder that is removed")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torch.distributed.*")  # they advise what does not concern one process
    trainer = Trainer()
    trainer.step()
    folder = Path(tempfile.mkdtemp(prefix="ganglion-bench-", dir=options.folder))
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(folder / "store"), 1), rank=0, world_size=1
    )  # `async_save` has to have one
    methods = Methods(trainer, folder)
    ways = {
        "Ganglion": (methods.ganglion, "checksums, flushed, atomic; old one removed"),
        "DCP save": (methods.dcp_save, "flushed; ours is to add 10x less"),
        "DCP async_save": (methods.dcp_async_save, "flushed; ours is to add 3x less"),
        "torch.save": (methods.torch_save, "not flushed"),
        "safetensors": (methods.safetensors, "not flushed"),
    }
    found: dict[str, list[Added]] = {name: [] for name in ways}
    try:
        with _companion() if options.busy else contextlib.nullcontext():
            for round_ in range(options.rounds + 1):
                for name, (save, _) in ways.items():
                    methods.remove_old()
                    cost = added(trainer, save, options.steps)
                    if round_:
                        found[name].append(cost)
        measurements = [
            Measurement(
                Case(name=name, run=lambda: 0.0, note=f"{_told(found[name])}; {note}"),
                [cost.wall for cost in found[name]],
            )
            for name, (_, note) in ways.items()
        ]
        ours = measurements[0].median
        context = environment(("torch", "safetensors"))
        context |= {f"{m.case.name} adds": f"{m.median / ours:.1f}x as much" for m in measurements[1:]}
        title = "wall time added by a checkpoint of 400 MB" + (", the other core computes too" if options.busy else "")
        show(title, measurements, context, as_json=options.json)
    finally:
        torch.distributed.destroy_process_group()
        shutil.rmtree(folder, ignore_errors=True)


def _told(costs: list[Added]) -> str:
    wait, processor = (statistics.median(times) for times in list(zip(*costs, strict=True))[1:])
    return f"stood still {1000 * wait:.0f} ms, processor {1000 * processor:.0f} ms"


@contextlib.contextmanager
def _companion() -> Iterator[None]:
    """Another process that trains as this one does."""
    process = get_context("spawn").Process(target=_accompany, args=(os.getpid(),), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _accompany(parent: int) -> None:
    torch.set_num_threads(1)
    trainer = Trainer()
    while os.getppid() == parent:
        trainer.step()


def _done(_wait: bool) -> bool:
    return True


if __name__ == "__main__":
    main()
