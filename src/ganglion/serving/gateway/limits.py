"""What a client may ask of the gateway."""

from __future__ import annotations

from ganglion.core.config import Config


class HttpLimits(Config, frozen=True, kw_only=True):
    """What a client may ask of a connection.

    Attributes:
        url: bytes of a request target.
        headers: number of header fields.
        head: bytes of all header fields.
        body: bytes of a body.
        bodies: bytes of all bodies that are arriving at once, on all connections.
        pipelined: requests of one connection that are in hand at once; reading pauses beyond.
        connections: open connections; further ones are refused.
        head_timeout: seconds from the first byte of a request to the end of its headers.
        body_timeout: seconds from there to the end of its body.
        idle_timeout: seconds that a connection is kept open without a request.
        write_timeout: seconds that a client may leave answers unread.
        linger: bytes that a refused client may go on sending before the connection is cut.
        linger_timeout: seconds for which a refused client may go on sending before the connection is cut.
    """

    url: int = 8 * 2**10
    headers: int = 100
    head: int = 32 * 2**10
    body: int = 64 * 2**20
    bodies: int = 512 * 2**20
    pipelined: int = 64
    connections: int = 10_000
    head_timeout: float = 10.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    write_timeout: float = 60.0
    linger: int = 16 * 2**20
    linger_timeout: float = 2.0
