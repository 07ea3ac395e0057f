"""What a keeper is told by the process that follows it.

On one TCP connection, dialled by the follower: first the token of the keeper, then orders one way and notices of
members the other, framed as on the control channel. The address and the token are asked for through Ray.
"""

from __future__ import annotations

import msgspec

from ganglion.backends.processes.wire import StartMember, StopMember
from ganglion.execution.spec import Numerics

TOKEN_LENGTH = 32
"""Bytes that a follower sends first."""


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag="warm"):
    """Load what members to come will need.

    Attributes:
        numerics: of these members.
        preload: modules that they find imported.
    """

    numerics: Numerics
    preload: tuple[str, ...]


Order = StartMember | StopMember | Warm
