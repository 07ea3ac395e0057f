"""What becomes of workers once there is a checkpoint; imported by path."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from ganglion.core import faults
from ganglion.execution.member import current_member
from ganglion.training.callbacks import Callback


class KillAll(Callback):
    """Once a checkpoint of a late enough step is on the disk, every worker gets SIGKILL, in whatever it is doing.

    Args:
        folder: where workers leave their process ids.
        step: of the earliest such checkpoint.
        workers: how many there are.
    """

    replicated = True

    def __init__(self, *, folder, step, workers):
        self.folder = Path(folder)
        self.least = step
        self.workers = workers
        if current_member().attempt == 1:
            (self.folder / f"{current_member().name}.pid").write_text(str(os.getpid()))
            faults.install(self.happen)

    def get_state(self):
        return {}

    def happen(self, point, context):
        if point == "training.checkpoint_saved" and context["step"] >= self.least:
            pids = [int(path.read_text()) for path in self.folder.glob("*.pid")]
            assert len(pids) == self.workers
            for pid in sorted(pids, key=lambda pid: pid == os.getpid()):
                os.kill(pid, signal.SIGKILL)


class FillDisk(Callback):
    """Takes all the room there is in a folder, from a step on; also what is given back later."""

    def __init__(self, *, folder, step):
        self.folder = folder
        self.step = step

    def on_step_end(self, training):
        if training.step >= self.step:
            with contextlib.suppress(OSError), (Path(self.folder) / "filling").open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
