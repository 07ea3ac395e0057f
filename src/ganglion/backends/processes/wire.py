"""What wardens and those who ask them for processes say to each other, framed as on the control channel."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from ganglion.core.events import MemberStarted
from ganglion.execution.backend import Launch
from ganglion.execution.exits import Evidence, MemberEnded
from ganglion.execution.spec import MemberPlan

LENGTH = struct.Struct(">I")
"""What stands before each message: the number of its bytes."""


class StartMember(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """Create a process.

    Attributes:
        key: names the attempt from here on; also the path of its folder.
        plan: what it runs.
        launch: attempt, control address and token.
        listen_at: where it opens the socket that it serves on, `unix:PATH` or `tcp:HOST`; the file of a Unix socket is
            removed when it has ended.
        tied: whether it ends with the process that asked for it.
        use_cgroup: whether memory is limited by cgroup v2 (else by `RLIMIT_DATA`).
    """

    key: str
    plan: MemberPlan
    launch: Launch
    listen_at: str
    tied: bool
    use_cgroup: bool


class StopMember(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """SIGTERM now, SIGKILL for the whole process group after `grace` seconds."""

    key: str
    grace: float


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The process exists."""

    key: str
    at: float
    pid: int

    def event(self, host: str) -> MemberStarted:
        """What it says of the attempt that its key names."""
        job, member, attempt = named(self.key)
        return MemberStarted(at=self.at, job=job, member=member, attempt=attempt, host=host, pid=self.pid)


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The process is gone, and nothing of its group is left."""

    key: str
    at: float
    evidence: Evidence

    def event(self, _host: str) -> MemberEnded:
        """What it says of the attempt that its key names."""
        job, member, attempt = named(self.key)
        return MemberEnded(at=self.at, job=job, member=member, attempt=attempt, evidence=self.evidence)


Request = StartMember | StopMember
Notice = Started | Ended


def named(key: str) -> tuple[str, str, int]:
    """The job, the member and the number of the attempt that a key stands for."""
    job, member, attempt = Path(key).parts[-3:]
    return job, member, int(attempt)


def encode(message: msgspec.Struct) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body
