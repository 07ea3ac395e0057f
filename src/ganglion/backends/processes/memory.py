"""Memory limits: cgroup v2 where this process may use it, else `RLIMIT_DATA`.

A cgroup counts what is resident and kills; `RLIMIT_DATA` counts private writable mappings and makes an allocation
fail. Whether cgroup v2 can be used is what `cgroup.controllers` says: that a `mkdir` succeeds proves nothing.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

import psutil


def delegated_cgroup(mount: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> Path | None:
    """The cgroup v2 folder in which this process may limit memory; `None` where there is none."""
    try:
        lines = membership.read_text().splitlines()
        own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
        folder = mount / own.lstrip("/")
        controllers = (folder / "cgroup.controllers").read_text().split()
        enabled = (folder / "cgroup.subtree_control").read_text().split()
    except (OSError, StopIteration):
        return None
    usable = "memory" in controllers and "memory" in enabled and os.access(folder, os.W_OK)
    return folder if usable else None


def enter_cgroup(parent: Path, name: str, limit: int) -> None:
    """Put this process into a cgroup of its own that may hold `limit` bytes, without swap."""
    folder = parent / name
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(str(limit))
    with contextlib.suppress(OSError):  # kernels without swap accounting have no such file
        (folder / "memory.swap.max").write_text("0")
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def leave_cgroup(parent: Path, name: str) -> bool:
    """Remove the cgroup of an ended member; tells whether the kernel killed for memory in it."""
    folder = parent / name
    if not folder.is_dir():
        return False
    events = dict(line.split() for line in (folder / "memory.events").read_text().splitlines())
    with contextlib.suppress(OSError):  # a straggler that is being killed still holds it; it goes with the machine
        folder.rmdir()
    return int(events.get("oom_kill", "0")) > 0


def limit_data(amount: int) -> None:
    """Let this process map `amount` more private bytes than it has now; beyond that an allocation fails."""
    if sys.platform != "linux":
        return
    used = psutil.Process().memory_info().data
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + amount if hard == resource.RLIM_INFINITY else min(hard, used + amount)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
