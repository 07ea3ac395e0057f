"""Heads of requests that repeat: clients send the same few again and again, and the same bytes always mean the same."""

from __future__ import annotations

from ganglion.serving.gateway.head import Head

MOST = 1024
"""Heads that are known at a time; once there are more, all are forgotten and learnt anew."""

_LONGEST = 1024
"""Bytes of the longest head that is known."""


class KnownHeads(dict[bytes, tuple[Head, int]]):
    """What heads of requests that came in one piece mean, and how long the bodies behind them are."""

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Head and body of what is one request with a head that is known, no more and no less."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST) + 4
        known = self.get(data[:end])
        return (known[0], data[end:]) if known is not None and len(data) == end + known[1] else None

    def learn(self, data: bytes, head: Head, length: int) -> None:
        """Know the head of a request, if it is all of these bytes.

        Args:
            data: that came between two requests.
            head: what its head means.
            length: bytes of its body.
        """
        end = data.find(b"\r\n\r\n", 0, _LONGEST) + 4
        if end >= 4 and len(data) == end + length:
            if len(self) >= MOST:
                self.clear()
            self[data[:end]] = head, length
