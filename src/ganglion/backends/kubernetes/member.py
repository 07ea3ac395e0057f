"""What runs in a container that was started from a manifest: `python -m ganglion.backends.kubernetes.member`.

It reads its plan from the environment, finds its place in what the operator has put there, calls the entry, and leaves
its last words where Kubernetes keeps them. No controller of Ganglion is needed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from ganglion.backends.kubernetes.place import Place, find_place
from ganglion.core import log
from ganglion.core.errors import ControlError
from ganglion.core.registry import add_to_path
from ganglion.execution.agent import Terminated
from ganglion.execution.entry import Entry
from ganglion.execution.exits import AgentReport
from ganglion.execution.member import Member, set_current_member

MEMBER = "GANGLION_MEMBER"
"""The variable that holds a `PodPlan` as JSON."""

REPORT = "GANGLION_REPORT"
"""The variable that names the file for the last words; none are left without it."""

READY = "GANGLION_READY"
"""The variable that names a file which appears once a replica is ready."""

LONGEST_REPORT = 4096
"""Bytes that Kubernetes keeps of a container's last words."""


class PodPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a container runs; the same for all members of a job.

    Attributes:
        job: id of the job.
        entry: import path of what is called.
        arguments: of the entry.
        import_path: folders put at the front of the import path.
        roles: of a gang, how many members each has, in rank order; empty for tasks and services.
        port: that a replica answers on; 0 for tasks and gangs.
    """

    job: str
    entry: str
    arguments: dict[str, Any] = {}
    import_path: tuple[str, ...] = ()
    roles: dict[str, int] = {}
    port: int = 0


class PodMember(Member):
    """This process, as its entry sees it: it listens where the manifest says, and its reports go to the log."""

    def __init__(self, plan: PodPlan, place: Place) -> None:
        me = place.peer
        super().__init__(
            job=plan.job,
            name=me.member,
            role=me.role,
            index=me.index,
            membership=place.membership,
            send=_tell,
        )
        self._port = plan.port

    def listen(self) -> tuple[socket.socket, str]:
        """Open the port of the service on every address of the pod."""
        server = socket.create_server(("0.0.0.0", self._port))  # what a Service reaches is the pod's own address
        return server, f"tcp:{socket.gethostname()}:{server.getsockname()[1]}"


def _tell(kind: str, value: Any) -> None:
    if kind == "ready":
        Path(os.environ[READY]).touch()
    else:
        log.get_logger(part="member").info("report", values=value)


def main() -> int:
    """Run the member that the environment describes; returns the exit status.

    Raises:
        ControlError: the environment does not describe one.
    """
    try:
        plan = msgspec.json.decode(os.environ[MEMBER], type=PodPlan)
    except (KeyError, msgspec.DecodeError) as error:
        raise ControlError(f"{MEMBER} does not hold the plan of a member: {error}.") from error
    place = find_place(os.environ, plan.roles)
    os.environ.update(place.variables)
    add_to_path(plan.import_path)
    member = PodMember(plan, place)
    set_current_member(member)

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        first = not member.draining.is_set()
        member.draining.set()
        if first and not plan.port:
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    report = _call(plan)
    if target := os.environ.get(REPORT):
        Path(target).write_bytes(encode_report(report))
    return report.code


def _call(plan: PodPlan) -> AgentReport:
    try:
        value = Entry(path=plan.entry).load()(**plan.arguments)
        msgspec.json.encode(value)
    except Terminated:
        return AgentReport(succeeded=False, message="asked to end", code=128 + signal.SIGTERM)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return AgentReport(
            succeeded=code == 0, message=str(error), error_type="SystemExit" if code else None, code=code
        )
    except Exception as error:  # noqa: BLE001  # whatever the entry raises is its report
        trace = traceback.format_exc()
        sys.stderr.write(trace)
        kind = type(error)
        return AgentReport(
            succeeded=False,
            error_type=f"{kind.__module__}.{kind.__qualname__}",
            message=str(error),
            traceback=trace,
            code=1,
        )
    return AgentReport(succeeded=True, value=value)


def encode_report(report: AgentReport) -> bytes:
    """The report as JSON that fits into what Kubernetes keeps; the end of a traceback says most."""
    encoded = msgspec.json.encode(report)
    if len(encoded) <= LONGEST_REPORT:
        return encoded
    # a character takes at most 6 bytes as JSON
    short = msgspec.structs.replace(
        report, value=None, message=report.message[:200], traceback=(report.traceback or "")[-400:] or None
    )
    return msgspec.json.encode(short)


if __name__ == "__main__":
    log.configure(os.environ.get("GANGLION_LOG", "info"))
    try:
        status = main()
    except ControlError as error:
        sys.stderr.write(f"ControlError: {error}\n")
        status = ControlError.exit_code
    # The report is written. Threads that a library left running (gloo has some) can abort an interpreter at its end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
