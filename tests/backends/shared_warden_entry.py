"""What a member of `test_shared_warden.py` finds around it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def state() -> dict[str, Any]:
    """Handlers, streams, variables and descriptors of this process, which also says something."""
    sys.stdout.write("said by a member\n")
    interrupt = signal.getsignal(signal.SIGINT)
    terminate = signal.getsignal(signal.SIGTERM)
    owner = getattr(terminate, "__module__", "")
    return {
        "terminate": "member's own" if owner == "ganglion.execution.agent" else repr(terminate),
        "interrupt": getattr(interrupt, "__name__", repr(interrupt)),
        "input": os.readlink("/proc/self/fd/0"),
        "output": Path(os.readlink("/proc/self/fd/1")).name,
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "threads": os.environ["OMP_NUM_THREADS"],
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
