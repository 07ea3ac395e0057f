"""How a process ended, decided in one place from what its agent and its backend saw.

| evidence | kind |
|---|---|
| it was asked to stop, by whom | cancelled, timed out, lost (no sign of life), or success (drained) |
| the kernel killed it for memory (cgroup), or its last error was a failed allocation | out of memory |
| a signal ended it | killed |
| its agent reported an error, or it exited with a status other than 0 | exception |
| its agent reported a value | success |
| nobody knows | lost |
"""

from __future__ import annotations

import enum
import signal
from typing import Any

import msgspec

from ganglion.core import errors
from ganglion.core.events import Exit, ExitKind, MemberEvent


class StopReason(enum.StrEnum):
    """Why the lifecycle machine asked a member to end."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    DRAINED = "drained"


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The last word of the agent in the process.

    Attributes:
        succeeded: whether the entry returned.
        value: what it returned (plain data).
        error_type: qualified name of the exception.
        message: its text.
        traceback: where it was raised.
        allocation_failed: the exception says that memory could not be allocated.
        code: exit status that the process is about to end with.
    """

    succeeded: bool
    value: Any = None
    error_type: str | None = None
    message: str = ""
    traceback: str | None = None
    allocation_failed: bool = False
    code: int = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about an end.

    Attributes:
        code: exit status, if the process exited by itself and somebody waited for it.
        signal: the signal that ended it.
        report: the agent's last word.
        memory_killed: the kernel ended it, or refused it memory, because of a memory limit.
        cpu_seconds: user and system time.
        peak_memory: largest resident set in bytes.
        note: what else the backend saw, for a person.
    """

    code: int | None = None
    signal: int | None = None
    report: AgentReport | None = None
    memory_killed: bool = False
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    note: str = ""


class MemberEnded(MemberEvent, frozen=True, kw_only=True, tag="member_ended"):
    """From a backend to the supervisor: the process is gone, and this is what was seen."""

    evidence: Evidence


def classify(evidence: Evidence, reason: StopReason | None = None) -> Exit:
    """Decide how a process ended.

    Args:
        evidence: what agent and backend saw.
        reason: why it had been asked to stop, if it had.
    """
    report = evidence.report
    kind, message = _kind(evidence, reason)
    return Exit(
        kind=kind,
        message=message,
        error_type=report.error_type if report else None,
        traceback=report.traceback if report else None,
        code=evidence.code,
        signal=evidence.signal,
        value=report.value if report and kind is ExitKind.SUCCESS else None,
        cpu_seconds=evidence.cpu_seconds,
        peak_memory=evidence.peak_memory,
    )


def _kind(evidence: Evidence, reason: StopReason | None) -> tuple[ExitKind, str]:
    report = evidence.report
    if report and report.succeeded and evidence.signal is None:
        return ExitKind.SUCCESS, ""
    if reason is StopReason.DRAINED:
        return ExitKind.SUCCESS, "drained"
    if reason is StopReason.TIMED_OUT:
        return ExitKind.TIMED_OUT, "stopped because its time was up"
    if reason is StopReason.LOST:
        return ExitKind.LOST, "gave no sign of life"
    if reason is StopReason.CANCELLED:
        return ExitKind.CANCELLED, "cancelled"
    if evidence.memory_killed or (report and report.allocation_failed):
        detail = report.message if report else evidence.note
        return ExitKind.OUT_OF_MEMORY, f"out of memory: {detail}".rstrip(": ")
    if report and not report.succeeded:
        return ExitKind.EXCEPTION, error_text(report.error_type, report.message)
    if evidence.signal is not None:
        return ExitKind.KILLED, f"killed by {_signal_name(evidence.signal)}"
    if evidence.code == 0:
        return ExitKind.EXCEPTION, "exited with status 0 before its entry returned"
    if evidence.code is not None:
        return ExitKind.EXCEPTION, f"exited with status {evidence.code} and no report"
    return ExitKind.LOST, evidence.note or "nobody saw how it ended"


def error_text(error_type: str | None, message: str) -> str:
    """An error for a person: one of ours by its text, any other by the last part of its name as well.

    Args:
        error_type: qualified name of the exception, if it is known.
        message: its text.
    """
    module, _dot, name = (error_type or "").rpartition(".")
    if message and (not name or module == errors.__name__):
        return message
    return f"{name}: {message}".rstrip(": ")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
