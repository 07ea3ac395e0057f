"""What the lifecycle machine wants done."""

from __future__ import annotations

import msgspec

from ganglion.execution.member import Membership
from ganglion.execution.outcome import Outcome
from ganglion.execution.spec import MemberPlan


class Instruction(msgspec.Struct, frozen=True):
    """Base of what the supervisor executes."""


class Reserve(Instruction, frozen=True):
    """Ask for the resources of all of these or none."""

    plans: tuple[MemberPlan, ...]


class Release(Instruction, frozen=True):
    """Give the resources of these back, or withdraw the request."""

    plans: tuple[MemberPlan, ...]


class Start(Instruction, frozen=True):
    """Start an attempt."""

    plan: MemberPlan
    attempt: int


class Stop(Instruction, frozen=True):
    """Ask an attempt to end and kill it after `grace` seconds."""

    member: str
    attempt: int
    grace: float


class Broadcast(Instruction, frozen=True):
    """Tell every joined member who is in the gang."""

    membership: Membership


class LeaveOut(Instruction, frozen=True):
    """Tell whoever submitted the job that the others go on without this attempt."""

    member: str
    attempt: int
    reason: str
    taking_part: int
    members: int


class TakeBack(Instruction, frozen=True):
    """Tell them that it takes part again."""

    member: str
    attempt: int
    taking_part: int
    members: int


class Finish(Instruction, frozen=True):
    """The job is over."""

    outcome: Outcome
