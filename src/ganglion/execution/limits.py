"""When the lifecycle machine has to act although nobody tells it anything; pure."""

from __future__ import annotations

import math

from ganglion.execution.exits import StopReason
from ganglion.execution.job_state import LIVE, JobState, MemberState, Phase
from ganglion.execution.presence import Presence, due
from ganglion.execution.spec import AnySpec, Gang, Service

SILENT_FOR = 120.0
"""Seconds without a sign of life after which a member that takes part in an elastic gang is given up, if its spec does
not say; a library that lets no other thread run for a while is no reason to."""


def deadline(state: JobState) -> float | None:
    """When the machine wants a `Tick` at the latest; `None` if it waits for nothing but signals."""
    if state.outcome is not None:
        return None
    spec = state.spec
    times = [admission_limit(state)]
    for member in state.members.values():
        times += [due_at(at, reason, state) for at, reason in limits(spec, member)]
        if member.phase is Phase.BACKOFF and member.resume_at is not None and not state.regrouping:
            times.append(member.resume_at)
    if state.ending is None and (missed := due(presences(state).values())) is not None:
        times.append(max(missed, state.look_at))
    earliest = min(times)
    return earliest if earliest < math.inf else None


def admission_limit(state: JobState) -> float:
    """When a job that has not got its resources gives up."""
    patience = state.spec.admission_timeout
    return math.inf if state.admitted or patience is None else state.submitted + patience


def presences(state: JobState) -> dict[str, Presence]:
    """The pulses of those who take part."""
    return {
        name: member.presence
        for name, member in state.members.items()
        if member.presence is not None and member.phase is Phase.READY and not member.away
    }


def limits(spec: AnySpec, member: MemberState) -> list[tuple[float, StopReason]]:
    """Moments at which this member has to be stopped, and why."""
    if member.phase not in LIVE or member.phase is Phase.STOPPING:
        return []
    found: list[tuple[float, StopReason]] = []
    if spec.timeout is not None:
        found.append((member.since + spec.timeout, StopReason.TIMED_OUT))
    if isinstance(spec, Service) and member.phase is not Phase.READY:
        found.append((member.since + spec.readiness_timeout, StopReason.TIMED_OUT))
    if member.seen is not None and (patience := _patience(spec, member)) is not None:
        found.append((member.seen + patience, StopReason.LOST))
    return found


def _patience(spec: AnySpec, member: MemberState) -> float | None:
    """Seconds without a sign of life after which a member is given up."""
    takes_part = isinstance(spec, Gang) and spec.elastic and member.phase is Phase.READY
    return SILENT_FOR if spec.lost_after is None and takes_part else spec.lost_after


def due_at(at: float, reason: StopReason, state: JobState) -> float:
    """When a limit counts; whoever seems lost is heard first, if the machine was late."""
    return max(at, state.look_at) if reason is StopReason.LOST else at
