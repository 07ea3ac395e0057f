"""What a fresh process does to become a member: a session of its own, its log, its limits, then the agent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

import msgspec

from ganglion.backends.processes.attempts import LOG, REPORT, REQUEST, write_atomically
from ganglion.backends.processes.memory import delegated_cgroup, enter_cgroup, limit_data
from ganglion.backends.processes.wire import StartMember
from ganglion.execution import agent
from ganglion.execution.exits import AgentReport

_PR_SET_PDEATHSIG = 1


def detach(parent: int, *, tied: bool) -> None:
    """Start a session; a process that is tied asks the kernel, where it offers that, to be killed with `parent`."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    if sys.platform == "linux" and tied:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def become(request: StartMember) -> int:
    """Run the member to its end in this process.

    Returns:
        The exit status; the caller leaves with `os._exit`, so that nothing it inherited runs at exit.
    """
    folder = Path(request.key)
    plan = request.plan
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text stream over the log
    try:
        if plan.resources.memory:
            cgroup = delegated_cgroup() if request.use_cgroup else None
            if cgroup is not None:
                enter_cgroup(cgroup, cgroup_name(folder), plan.resources.memory)
            else:
                limit_data(plan.resources.memory)
        status = agent.run(
            plan,
            request.launch,
            listen_at=request.listen_at,
            save=lambda report: write_atomically(folder / REPORT, msgspec.msgpack.encode(report)),
            abandon=lambda: os.killpg(0, signal.SIGKILL),
        )
    except agent.Terminated:
        _flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        status = 1
    except BaseException as error:  # noqa: BLE001  # the agent itself failed: the only witness is this report
        report = AgentReport(
            succeeded=False,
            error_type=type(error).__name__,
            message=str(error),
            traceback=traceback.format_exc(),
            code=1,
        )
        write_atomically(folder / REPORT, msgspec.msgpack.encode(report))
        status = 1
    _flush()
    return status


def cgroup_name(folder: Path) -> str:
    """Name of the cgroup of the attempt that lives in `folder`."""
    return "ganglion-" + "-".join(folder.parts[-3:])


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the disk is full or the entry closed it
            stream.flush()


def open_log(folder: Path) -> None:
    """Send standard output and error of this process to the attempt's log, in one order; nothing comes in."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(nothing)


def main() -> None:
    """Entry of a spawned (not forked) member: `python -m ganglion.backends.processes.member_process FOLDER PARENT`."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    request = msgspec.msgpack.decode((folder / REQUEST).read_bytes(), type=StartMember)
    (folder / REQUEST).unlink()
    detach(parent, tied=request.tied)
    os._exit(become(request))


if __name__ == "__main__":
    main()
