"""The control channel between the supervisor and the agent in each member.

The agent dials the supervisor and identifies itself with a token. Frames are a four-byte big-endian length and one
msgpack-encoded message. Up go `Hello`, `Ready`, `Report`, `Sample`, `Accuse`, `Reach` and `Pulse`; down go `Joined`
(the membership), `Message` and `Echo`. The channel is the same on every backend; a closed channel means that the other
side is gone, a silent one that it cannot be reached.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from ganglion.core.errors import ControlError
from ganglion.execution.member import Membership

_LENGTH = struct.Struct(">I")
LONGEST_FRAME = 64 * 2**20


class Up(msgspec.Struct, frozen=True, kw_only=True, tag_field="up"):
    """Base of what an agent says."""


class Hello(Up, frozen=True, kw_only=True, tag="hello"):
    """The first frame on every connection.

    Attributes:
        job: id of the job.
        member: id of the member.
        attempt: 1 for the first try.
        token: what the launch gave; compared in constant time, never logged.
        address: `host:port` that this member may bind for its peers.
        endpoint: where it already serves, when it dials again after its controller was replaced.
    """

    job: str
    member: str
    attempt: int
    token: str
    address: str
    endpoint: str = ""


class Ready(Up, frozen=True, kw_only=True, tag="ready"):
    """The member serves at this endpoint."""

    endpoint: str


class Report(Up, frozen=True, kw_only=True, tag="report"):
    """Metrics or progress."""

    values: dict[str, Any]


class Sample(Up, frozen=True, kw_only=True, tag="sample"):
    """What the process uses; doubles as the heartbeat."""

    cpu_seconds: float
    memory: int
    threads: int


class Accuse(Up, frozen=True, kw_only=True, tag="accuse"):
    """This attempt of another member of the same job has stopped working.

    Attributes:
        member: id of the member.
        attempt: 1 for the first try.
    """

    member: str
    attempt: int


class Reach(Up, frozen=True, kw_only=True, tag="reach"):
    """Whether this member reaches another one of its elastic gang, once that changes.

    Attributes:
        member: id of the other.
        attempt: 1 for the first try.
        works: whether the link between the two works.
    """

    member: str
    attempt: int
    works: bool


class Pulse(Up, frozen=True, kw_only=True, tag="pulse"):
    """A sign of life of a member of an elastic gang, where a network is in between; answered with an `Echo`.

    Attributes:
        gap: seconds since the one before it, for which the member itself is to blame.
    """

    gap: float


class Down(msgspec.Struct, frozen=True, kw_only=True, tag_field="down"):
    """Base of what the supervisor says."""


class Joined(Down, frozen=True, kw_only=True, tag="joined"):
    """Who is in the gang; the first one releases the entry."""

    membership: Membership


class Message(Down, frozen=True, kw_only=True, tag="message"):
    """A value for the entry, from whoever submitted the job."""

    value: Any


class Echo(Down, frozen=True, kw_only=True, tag="echo"):
    """The answer to a `Pulse`: the controller can be reached."""


AnyUp = Hello | Ready | Report | Sample | Accuse | Reach | Pulse
AnyDown = Joined | Message | Echo

_encoder = msgspec.msgpack.Encoder()


def encode(message: Up | Down) -> bytes:
    """One frame, ready to send."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes and return the complete frames.

        Raises:
            ControlError: a frame is longer than `LONGEST_FRAME`.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LONGEST_FRAME:
                raise ControlError(f"A control frame of {length} bytes; at most {LONGEST_FRAME} are allowed.")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return frames
