"""Work that leaves the cores to others who want them, such as loading a model while another version answers.

A process without privileges cannot raise its priority again, so it must not lower that of a thread that lives on. On
Linux priorities belong to threads (nice(2)) and, where `autogroup` is on, weigh only within a session; the weight of
the session itself (sched(7), "The autogroup feature") anybody may lower and restore.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ganglion.core.log import get_logger

GENTLE = 10
"""By how much it is nicer: a tenth of the weight, so that it comes to an end also where all cores are busy."""

_AUTOGROUP = Path("/proc/self/autogroup")
_NICEST = 19
_BEFORE, _AFTER = 0.5, 10.0
"""Seconds to go on asking before the work and after it: the kernel takes ten such changes a second from everybody."""

_PAUSE = 0.02
_one_at_a_time = threading.Lock()  # who lowers the weight of the session has to know what it was
_log = get_logger(part="serving.gentle")

T = TypeVar("T")


def run_gently(function: Callable[[], T], patience: float = 20.0) -> T:
    """Call a function in a thread that leaves the cores to others; where the system has no such thread, as it is.

    Args:
        function: returns or raises what this does.
        patience: seconds after which the session counts as any other, so that the work ends on a machine where others
            want all cores all the time.
    """
    if sys.platform != "linux":
        return function()

    def run() -> T:
        os.nice(GENTLE)  # of this thread alone
        return function()

    with _one_at_a_time, ThreadPoolExecutor(1, thread_name_prefix="gentle") as thread:
        with _lighter_session():
            future = thread.submit(run)
            wait([future], patience)
        return future.result()


@contextmanager
def _lighter_session() -> Iterator[None]:
    """Lower the weight of this process's session, if it is its own and weights of sessions count."""
    before = session_nice() if os.getsid(0) == os.getpid() else None
    lowered = before is not None and _set_session_nice(min(before + GENTLE, _NICEST), _BEFORE)
    try:
        yield
    finally:
        if lowered and before is not None and not _set_session_nice(before, _AFTER):
            _log.warning("session_stays_nice", nice=session_nice(), before=before)


def session_nice() -> int | None:
    """Nice value of this process's session; `None` where sessions have none."""
    try:
        found = re.search(r"nice (-?\d+)", _AUTOGROUP.read_text())
    except OSError:
        return None
    return int(found[1]) if found is not None else None


def _set_session_nice(value: int, patience: float) -> bool:
    """Whether it could be set, within so many seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            _AUTOGROUP.write_text(str(value))
        except BlockingIOError:  # somebody else has just changed the weight of a session
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE)
        except OSError:
            return False
        else:
            return True
