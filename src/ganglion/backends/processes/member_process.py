"""What a fresh process does to become a member: a session of its own; with its plan, log and limits; then the agent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from ganglion.backends.processes.attempts import REPORT, write_atomically
from ganglion.backends.processes.memory import delegated_cgroup, enter_cgroup, limit_data
from ganglion.backends.processes.wire import LENGTH, StartMember
from ganglion.execution import agent
from ganglion.execution.exits import AgentReport

_PR_SET_PDEATHSIG = 1

_decoder = msgspec.msgpack.Decoder(StartMember)


def serve_once(channel: socket.socket, parent: int) -> NoReturn:
    """Wait for a plan and be that member; what this process is for.

    Args:
        channel: brings one `StartMember` and then the descriptor of a log, or its end when there is no use for this
            process.
        parent: the process to end with while there is no plan, and after that if the plan says so.
    """
    status = 1
    try:
        _start_session(parent)
        if not select.select([channel], [], [], 0)[0]:
            agent.rehearse()
        request = _receive(channel)
        if request is None:
            os._exit(0)
        if not request.tied:
            _die_with_parent(0)
        status = become(request, channel)
    finally:
        os._exit(status)  # nothing that this process inherited runs at exit


def _start_session(parent: int) -> None:
    """Start a session, and ask the kernel, where it offers that, to be killed with `parent`."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    _die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _die_with_parent(number: int) -> None:
    """Get this signal when the parent dies; none for 0."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def _receive(channel: socket.socket) -> StartMember | None:
    """The plan of this process; `None` when its warden is gone or has no use for it."""
    head = channel.recv(LENGTH.size, socket.MSG_WAITALL)  # no more: what comes after it carries a descriptor
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    return _decoder.decode(channel.recv(length, socket.MSG_WAITALL))


def become(request: StartMember, channel: socket.socket) -> int:
    """Run the member to its end in this process, with the log that comes through `channel`.

    Returns:
        The exit status.
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
            open_log=lambda: _open_log(channel),
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


def _open_log(channel: socket.socket) -> None:
    """Send standard output and error of this process to the log, in one order; nothing comes in.

    Raises:
        EOFError: the warden ended before it had opened the log.
    """
    with channel:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        raise EOFError("The process that opens the logs is gone.")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[0], 2)
    os.close(descriptors[0])
    os.close(nothing)


def main() -> None:
    """Entry of a spawned (not forked) process: `python -m ganglion.backends.processes.member_process PARENT`.

    Its plan comes through the socket that is its standard input.
    """
    channel = socket.socket(fileno=os.dup(0))
    channel.set_inheritable(False)
    serve_once(channel, int(sys.argv[1]))


if __name__ == "__main__":
    main()
