"""What happened: the values that travel up from processes and backends to the journal, the record and the views.

Every event is plain data with a type tag, so that it reads the same in memory, on the control channel and on disk.
Times are wall seconds since the epoch.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class ExitKind(enum.StrEnum):
    """How a process ended, decided once from evidence (`execution.exits`)."""

    SUCCESS = "success"
    EXCEPTION = "exception"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one attempt of one member.

    Attributes:
        kind: the class of the end.
        message: one line for a person.
        error_type: qualified name of the exception, if there was one.
        traceback: the member's own traceback, if there was one.
        code: exit status, if the process exited by itself.
        signal: number of the signal that ended it, if one did.
        value: what the entry returned (plain data), on success.
        cpu_seconds: user and system time of the process and its waited-for children.
        peak_memory: largest resident set in bytes.
    """

    kind: ExitKind
    message: str = ""
    error_type: str | None = None
    traceback: str | None = None
    code: int | None = None
    signal: int | None = None
    value: Any = None
    cpu_seconds: float = 0.0
    peak_memory: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events.

    Attributes:
        at: wall time in seconds.
        job: id of the Task, Gang or Service.
    """

    at: float
    job: str


class JobAdmitted(Event, frozen=True, kw_only=True, tag="job_admitted"):
    """The resources of these members are reserved.

    Attributes:
        members: ids of the members they are for.
    """

    members: tuple[str, ...]


class MemberEvent(Event, frozen=True, kw_only=True):
    """Base of what happens to one attempt of one member.

    Attributes:
        member: id of the member, such as `worker-1`.
        attempt: 1 for the first try.
    """

    member: str
    attempt: int


class MemberStarted(MemberEvent, frozen=True, kw_only=True, tag="member_started"):
    """A process exists."""

    host: str
    pid: int


class MemberJoined(MemberEvent, frozen=True, kw_only=True, tag="member_joined"):
    """The agent in the process dialled back; it can be reached by its peers at `address` (host:port)."""

    address: str


class MemberReady(MemberEvent, frozen=True, kw_only=True, tag="member_ready"):
    """The member serves at `endpoint` (`unix:PATH` or `tcp:HOST:PORT`)."""

    endpoint: str


class MemberReported(MemberEvent, frozen=True, kw_only=True, tag="member_reported"):
    """The entry reported values: metrics, progress."""

    values: dict[str, Any]


class MemberSampled(MemberEvent, frozen=True, kw_only=True, tag="member_sampled"):
    """A sample of what the process uses.

    Attributes:
        cpu_seconds: since the start of the process.
        memory: resident bytes.
        threads: number of threads.
    """

    cpu_seconds: float
    memory: int
    threads: int


class MemberExited(MemberEvent, frozen=True, kw_only=True, tag="member_exited"):
    """The process is gone."""

    exit: Exit


class MemberLeftOut(MemberEvent, frozen=True, kw_only=True, tag="member_left_out"):
    """The others go on without this member of an elastic gang; its process and what it holds stay.

    Attributes:
        reason: what is known of it, such as `it is not heard of`.
        taking_part: how many members go on.
        members: how many would, if all could.
    """

    reason: str
    taking_part: int
    members: int


class MemberReturned(MemberEvent, frozen=True, kw_only=True, tag="member_returned"):
    """A member that was left out takes part again.

    Attributes:
        taking_part: how many members take part now.
        members: how many would, if all could.
    """

    taking_part: int
    members: int


class JobFinished(Event, frozen=True, kw_only=True, tag="job_finished"):
    """The job is over and holds nothing any more.

    Attributes:
        state: `succeeded`, `failed` or `cancelled`.
        message: one line for a person.
    """

    state: str
    message: str = ""


AnyEvent = (
    JobAdmitted
    | MemberStarted
    | MemberJoined
    | MemberReady
    | MemberReported
    | MemberSampled
    | MemberExited
    | MemberLeftOut
    | MemberReturned
    | JobFinished
)
