"""The folder of one attempt of one member, `jobs/<job>/<member>/<attempt>`: what lies in it and what it tells."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil

LOG = "log"
"""What the process wrote to standard output and error."""

IDENTITY = "process"
"""Process id and time of the start."""

REPORT = "report.msgpack"
"""The last word of the agent."""

EVIDENCE = "evidence.msgpack"
"""How it ended, as its warden saw it."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(data)
    temporary.rename(path)


def identify(folder: Path) -> psutil.Process | None:
    """The process of the attempt in `folder`, if it still is that process and not a later one with its number."""
    try:
        identity = msgspec.json.decode((folder / IDENTITY).read_bytes())
        process = psutil.Process(identity["pid"])
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if process.create_time() <= identity["at"] + 1.0 else None


def is_running(job: Path) -> bool:
    """Whether a process of the job whose folder this is still runs."""
    return any(
        identify(path.parent) is not None
        for path in job.glob(f"*/*/{IDENTITY}")
        if not (path.parent / EVIDENCE).exists()
    )
