"""Faults by schedule: what happens to which member, at which point of which step."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ganglion.core import faults
from ganglion.execution.member import current_member
from ganglion.training.callbacks import Callback

POINTS = ("before_reduce", "in_reduce", "after_reduce", "optimizer", "commit")
"""Points of a step; `evaluated`, `finish` and `ready` are others."""


def fault(kind, member, point, step=None, attempt=1, **more):
    return {"kind": kind, "member": member, "point": f"training.{point}", "step": step, "attempt": attempt, **more}


class Faults(Callback):
    """Carries out a schedule in each worker; each entry once.

    Kinds: `kill`, `stop`, `preempt` (SIGTERM); `hold` waits at a point until another member passes its `release` of the
    same `gate`; `note` appends the time to a file; `slow` computes nothing for some seconds, again and again.
    """

    replicated = True

    def __init__(self, *, schedule, folder):
        self.folder = Path(folder)
        self.member = current_member()
        self.entries = [
            entry
            for entry in schedule
            if entry["member"] == self.member.name and entry["attempt"] in (None, self.member.attempt)
        ]
        self.step = 0
        if self.entries:
            faults.install(self.happen)

    def get_state(self):
        return {}

    def happen(self, point, context):
        self.step = context.get("step", self.step)
        for entry in list(self.entries):
            if entry["point"] == point and entry["step"] in (None, self.step):
                if not entry.get("always"):
                    self.entries.remove(entry)
                getattr(self, entry["kind"])(entry)

    def kill(self, _entry):
        os.kill(os.getpid(), signal.SIGKILL)

    def stop(self, _entry):
        os.kill(os.getpid(), signal.SIGSTOP)

    def preempt(self, _entry):
        os.kill(os.getpid(), signal.SIGTERM)

    def slow(self, entry):
        time.sleep(entry["seconds"])

    def hold(self, entry):
        (self.folder / entry["gate"]).read_bytes()

    def release(self, entry):
        (self.folder / entry["gate"]).write_bytes(b"")

    def note(self, entry):
        with (self.folder / entry["file"]).open("a") as file:
            file.write(f"{self.member.name} {self.member.attempt} {self.step} {time.monotonic()}\n")


class OverTcp(Callback):
    """Has its worker listen on the loopback interface, as a worker on another host would on its own address."""

    replicated = True

    def __init__(self):
        current_member()._listen_at = "tcp:127.0.0.1"
