"""What the lifecycle machine knows of a job and its members."""

from __future__ import annotations

import enum

import msgspec

from ganglion.core.events import Exit
from ganglion.execution.exits import StopReason
from ganglion.execution.outcome import Outcome
from ganglion.execution.presence import Presence
from ganglion.execution.spec import AnySpec, MemberPlan


class Phase(enum.StrEnum):
    """Where a member stands."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    ENDED = "ended"
    GONE = "gone"


LIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.READY, Phase.STOPPING})
"""Phases in which there is, or is about to be, a process."""


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    """One member.

    Attributes:
        plan: what it is.
        phase: where it stands.
        attempt: number of the current or last attempt; 0 before the first.
        failures: failed attempts since it last was steady.
        since: when the current attempt was started.
        seen: when it last gave a sign of life; `None` before it joined.
        address: where its peers reach it.
        endpoint: where it serves.
        entered: generation of the membership from which on it has taken part without a break.
        presence: its pulses, if it has any.
        away: it is not heard of.
        left_out: why it does not take part although it is ready; empty where it does.
        reason: why it was asked to stop.
        resume_at: when its back-off ends.
        leaving: it is not started again once it has ended (scaled down).
        exit: its last end.
    """

    plan: MemberPlan
    phase: Phase = Phase.WAITING
    attempt: int = 0
    failures: int = 0
    since: float = 0.0
    seen: float | None = None
    address: str = ""
    endpoint: str = ""
    entered: int = 0
    presence: Presence | None = None
    away: bool = False
    left_out: str = ""
    reason: StopReason | None = None
    resume_at: float | None = None
    leaving: bool = False
    exit: Exit | None = None


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """One job.

    Attributes:
        spec: what was asked for.
        members: by id, in rank order.
        submitted: when it was submitted.
        admitted: whether the members that start together have their resources.
        generation: of the membership that was last broadcast.
        restarts: how many restarts have been used.
        look_at: nobody is missed before; the machine was late, or had nobody to compare with.
        formed: the members of an elastic gang take part: all that start together were ready at the same time.
        broken: links between two attempts, of which one has said that they do not work.
        regrouping: everybody is being stopped in order to start again together.
        ending: how the job will end once its members are gone.
        outcome: set when it is over.
    """

    spec: AnySpec
    members: dict[str, MemberState]
    submitted: float = 0.0
    admitted: bool = False
    generation: int = 0
    restarts: int = 0
    look_at: float = 0.0
    formed: bool = False
    broken: frozenset[frozenset[tuple[str, int]]] = frozenset()
    regrouping: bool = False
    ending: Outcome | None = None
    outcome: Outcome | None = None
