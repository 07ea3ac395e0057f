"""What wardens and those who ask them for processes say to each other, framed as on the control channel."""

from __future__ import annotations

import struct

import msgspec

from ganglion.execution.backend import Launch
from ganglion.execution.exits import Evidence
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


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The process is gone, and nothing of its group is left."""

    key: str
    at: float
    evidence: Evidence


Request = StartMember | StopMember
Notice = Started | Ended


def encode(message: msgspec.Struct) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body
