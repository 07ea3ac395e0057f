"""Kept HTTP connections of a client, one for each request in hand, and one exchange on one of them."""

from __future__ import annotations

import http.client
import select
import threading
from collections.abc import Mapping
from typing import NamedTuple

MOST_IDLE = 64
"""Connections that are kept while nothing is asked."""


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: of HTTP.
        reason: that goes with it.
        headers: by their names in lower case.
        body: complete.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class ConnectionPool:
    """Connections to one address; for several threads at once.

    Args:
        host: name or address.
        port: of TCP.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, timeout: float
    ) -> Answer:
        """Ask once.

        Args:
            method: of HTTP.
            path: the target.
            body: of the request, if any.
            headers: of the request.
            timeout: seconds that the service may be silent.

        Raises:
            ConnectionError: nobody is there, or the connection ended before the answer was complete.
            http.client.HTTPException: what came is no complete answer.
            OSError: anything else, `TimeoutError` among it.
        """
        connection = self._take()
        try:
            connection.timeout = timeout
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
            answer = Answer(
                response.status,
                response.reason,
                {name.lower(): value for name, value in response.getheaders()},
                content,
            )
        except BaseException:
            connection.close()
            raise
        self._give(connection)
        return answer

    def close(self) -> None:
        """Close what is not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                if not self._idle:
                    return http.client.HTTPConnection(self._host, self._port)
                connection = self._idle.pop()
            if not _stale(connection):
                return connection
            connection.close()

    def _give(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if connection.sock is not None and len(self._idle) < MOST_IDLE:
                self._idle.append(connection)
                return
        connection.close()


def _stale(connection: http.client.HTTPConnection) -> bool:
    """Whether the service has closed a kept connection meanwhile: it is readable although nothing was asked."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
