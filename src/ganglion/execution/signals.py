"""What the lifecycle machine is told."""

from __future__ import annotations

import msgspec

from ganglion.execution.exits import Evidence


class Signal(msgspec.Struct, frozen=True):
    """Base of what the machine is told."""


class Submitted(Signal, frozen=True):
    """The job was handed in."""


class Admitted(Signal, frozen=True):
    """The resources of these members are reserved."""

    members: tuple[str, ...]


class Joined(Signal, frozen=True):
    """The agent of this attempt dialled back."""

    member: str
    attempt: int
    address: str
    endpoint: str = ""


class Ready(Signal, frozen=True):
    """A replica serves."""

    member: str
    attempt: int
    endpoint: str


class Alive(Signal, frozen=True):
    """A sign of life.

    Attributes:
        pulse: of those that come so often that their absence tells something: seconds since the member had sent the one
            before it.
    """

    member: str
    attempt: int
    pulse: float | None = None


class Accused(Signal, frozen=True):
    """A member of an elastic gang, or who uses a service, says that this attempt has stopped working."""

    member: str
    attempt: int


class Reached(Signal, frozen=True):
    """A member of an elastic gang says whether the link between this attempt and itself works.

    Attributes:
        member: that says so.
        attempt: of it.
        peer: on the other end.
        number: the attempt of the peer.
        works: whether it does.
    """

    member: str
    attempt: int
    peer: str
    number: int
    works: bool


class Ended(Signal, frozen=True):
    """The process of this attempt is gone, or could not be created."""

    member: str
    attempt: int
    evidence: Evidence


class Cancel(Signal, frozen=True):
    """The job is no longer wanted."""


class Drain(Signal, frozen=True):
    """Finish what is in hand and end."""


class Scale(Signal, frozen=True):
    """A service should have this many replicas."""

    replicas: int


class Replace(Signal, frozen=True):
    """End this member and start it again; no failure is counted."""

    member: str


class Tick(Signal, frozen=True):
    """Time went by."""
