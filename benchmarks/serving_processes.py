"""Processes of benchmarks that leave nothing behind, however the benchmark itself ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

_PR_SET_PDEATHSIG = 1


def start(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; the kernel ends it when this thread dies, even if that is killed.

    Args:
        command: what is started.
        environment: all of it.
        folder: where it works.
        log: where what it writes goes; nowhere by default.
    """
    return subprocess.Popen(
        [*command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log if log is not None else subprocess.DEVNULL,
        stderr=log if log is not None else subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent(os.getpid()),
    )


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: after it, little is safe

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return prepare


def end(process: subprocess.Popen[bytes], patience: float = 15.0) -> None:
    """End a program that `start` started, and whatever else is in its session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Within this block, SIGTERM and SIGHUP end the program as Ctrl-C does: every `with` and `finally` is left."""

    def leave(number: int, _frame: FrameType | None) -> None:
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)  # a second one does not disturb the end
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
