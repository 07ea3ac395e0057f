"""Messages with a body over any stream socket, so that who talks can be on other nodes.

A frame is the length of its header (four bytes) and of its body (eight bytes), both big-endian, the header in msgpack
and the body: bytes that the header describes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import msgspec

from ganglion.core.errors import ControlError

_LENGTHS = struct.Struct(">IQ")
LONGEST_HEADER = 16 * 2**20
LONGEST_BODY = 2**31
LONG_BODY = 2**16
"""Bytes from which a body that comes in several pieces has memory of its own."""

Buffer = bytes | bytearray | memoryview
Frame = tuple[memoryview, memoryview]
"""Header and body."""


_encoder = msgspec.msgpack.Encoder()


def encode(header: msgspec.Struct, body: Sequence[Buffer]) -> list[Buffer]:
    """A frame as buffers to be written one after the other; the body is not copied."""
    return encode_sized(header, body, sum(memoryview(part).nbytes for part in body))


def encode_sized(header: msgspec.Struct, body: Iterable[Any], size: int) -> list[Any]:
    """As `encode`, for a body whose size in bytes is known: buffers of any kind, arrays in C order among them."""
    encoded = _encoder.encode(header)
    return [_LENGTHS.pack(len(encoded), size) + encoded, *body]


class FrameReader:
    """Cuts a byte stream into frames.

    The body of a long frame has memory of its own, aligned for any tensor: `feed` copies into it once, and who reads a
    socket can have the kernel write to it (`room`, then `filled`).
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header = memoryview(b"")
        self._body: memoryview | None = None
        self._filled = 0

    def __len__(self) -> int:
        return len(self._buffer) + len(self._header) + self._filled

    @property
    def room(self) -> memoryview | None:
        """Memory for the rest of a long body; `None` while there is none."""
        return None if self._body is None else self._body[self._filled :]

    def filled(self, count: int) -> Frame | None:
        """So many bytes have been written to `room`; the frame, if it is complete."""
        assert self._body is not None
        self._filled += count
        if self._filled < self._body.nbytes:
            return None
        frame = self._header, self._body.toreadonly()
        self._header, self._body, self._filled = memoryview(b""), None, 0
        return frame

    def feed(self, data: bytes) -> list[Frame]:
        """Add received bytes and return the frames that are complete.

        Raises:
            ControlError: a frame is longer than allowed.
        """
        frames: list[Frame] = []
        view = memoryview(data)
        if self._body is not None:
            view = self._fill(view, frames)
        if self._buffer:
            self._buffer += view
            if len(self._buffer) < self._needed(self._buffer) and not self._is_long(self._buffer):
                return frames
            view = memoryview(bytes(self._buffer))
            self._buffer.clear()
        while view and view.nbytes >= (end := self._needed(view)):
            header = _LENGTHS.size + _LENGTHS.unpack_from(view)[0]
            frames.append((view[_LENGTHS.size : header], view[header:end]))
            view = view[end:]
        if view and self._is_long(view):
            header, body = _LENGTHS.unpack_from(view)
            self._header = memoryview(bytes(view[_LENGTHS.size : _LENGTHS.size + header]))
            self._body = BytesIO(bytes(body)).getbuffer()  # unlike a bytearray's, it is not written before it is used
            self._fill(view[_LENGTHS.size + header :], frames)
        elif view:
            self._buffer += view
        return frames

    def _fill(self, data: memoryview, frames: list[Frame]) -> memoryview:
        """Copy to the long body what is of it; returns what follows."""
        room = self.room
        assert room is not None
        count = min(room.nbytes, data.nbytes)
        room[:count] = data[:count]
        frame = self.filled(count)
        if frame is not None:
            frames.append(frame)
        return data[count:]

    @staticmethod
    def _is_long(data: Buffer) -> bool:
        """Whether these bytes, which are no complete frame, have the header of one with a long body."""
        if len(data) < _LENGTHS.size:
            return False
        header, body = _LENGTHS.unpack_from(data)
        return bool(body >= LONG_BODY and len(data) >= _LENGTHS.size + header)

    @staticmethod
    def _needed(data: Buffer) -> int:
        """Bytes of the first frame, or of its lengths where those are not there yet."""
        if len(data) < _LENGTHS.size:
            return _LENGTHS.size
        header, body = _LENGTHS.unpack_from(data)
        if header > LONGEST_HEADER or body > LONGEST_BODY:
            raise ControlError(
                f"A frame of {header} + {body} bytes; at most {LONGEST_HEADER} + {LONGEST_BODY} are allowed."
            )
        return int(_LENGTHS.size + header + body)
