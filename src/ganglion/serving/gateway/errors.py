"""A request that is refused, and how that is said over HTTP."""

from __future__ import annotations

from ganglion.core.errors import UserError

_LONGEST = 1000
"""Characters of the longest message: it may quote what was sent, which may be long."""


class RequestError(UserError):
    """A request gets an error for an answer.

    Attributes:
        status: HTTP status.
        retry_after: seconds after which another try may succeed, if it may.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")
        self.status = status
        self.retry_after = retry_after
