"""The body of a request while it arrives; the rest of a large one is written by the kernel to where it stays."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Protocol

DIRECT = 2**17
"""Bytes that are missing of a body from which it is worth having the rest written directly."""

MOST_BEGUN = 2 * DIRECT
"""Bytes that may have arrived before: they are copied, while everybody else waits."""

_LARGE = 2**20
"""Bytes from which a body must not be in memory twice, which is dearer than a copy of a smaller one."""


class Body:
    """The pieces that a parser hands over.

    Attributes:
        size: bytes so far, also of what is written elsewhere.
    """

    __slots__ = ("_large", "_pieces", "size")

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._large: BytesIO | None = None

    def add(self, data: bytes) -> None:
        """Keep a piece, which has been counted."""
        if self._large is None and self.size > _LARGE:
            self._large = BytesIO()
            self._large.writelines(self._pieces)
            self._pieces = []
        if self._large is None:
            self._pieces.append(data)
        else:
            self._large.write(data)

    def whole(self) -> bytes:
        """All pieces; no more are added."""
        if self._large is not None:
            return self._large.getvalue()  # no copy, as nothing more is written
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class BodyOwner(Protocol):
    """The connection that a body arrives on."""

    def body_written(self, count: int) -> None:
        """So many bytes more have arrived."""
        ...

    def body_complete(self, body: bytes) -> None:
        """All of it is there."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        ...

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        ...

    def resume_writing(self) -> None:
        """The client reads again."""
        ...


class DirectBody(asyncio.BufferedProtocol):
    """Takes the place of a connection at its transport until the body is complete.

    Args:
        owner: the connection.
        transport: its transport.
        begun: what has arrived already.
        size: bytes of the whole body.
    """

    def __init__(self, owner: BodyOwner, transport: asyncio.Transport, begun: bytes, size: int) -> None:
        self._owner = owner
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._memory = BytesIO(bytes(size))  # of a very large one, only what has been written needs memory
        self._room = self._memory.getbuffer()
        self._room[: len(begun)] = begun
        self._filled = len(begun)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where what comes next is written."""
        return self._room[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """It has been written."""
        self._filled += nbytes
        self._owner.body_written(nbytes)
        if self._filled < self._room.nbytes:
            return
        if self._filled <= _LARGE:  # the transport has its hand on the memory until this returns, so this is a copy
            self._complete()
        else:
            self._transport.pause_reading()
            self._loop.call_soon(self._complete)

    def _complete(self) -> None:
        self._room.release()
        self._owner.body_complete(self._memory.getvalue())

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._owner.resume_writing()
