"""Messages with a body over any stream socket, so that who talks can be on other nodes.

A frame is the length of its header (four bytes) and of its body (eight bytes), both big-endian, the header in msgpack
and the body: bytes that the header describes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ganglion.core.errors import ControlError

_LENGTHS = struct.Struct(">IQ")
LONGEST_HEADER = 16 * 2**20
LONGEST_BODY = 2**31

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
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Add received bytes and return the frames that are complete.

        Raises:
            ControlError: a frame is longer than allowed.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed(self._buffer):
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        view = memoryview(data)
        frames: list[Frame] = []
        while view and view.nbytes >= (end := self._needed(view)):
            header = _LENGTHS.size + _LENGTHS.unpack_from(view)[0]
            frames.append((view[_LENGTHS.size : header], view[header:end]))
            view = view[end:]
        self._buffer += view
        return frames

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
