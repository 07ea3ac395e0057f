"""Named points at which tests can make things go wrong; in production they do nothing.

`ganglion.testing` installs a handler; without one, `point` is a call that returns at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Handler = Callable[[str, dict[str, Any]], None]

_handler: Handler | None = None


def install(handler: Handler | None) -> None:
    """Make `handler` see every fault point of this process; `None` removes it."""
    global _handler
    _handler = handler


def point(name: str, **context: Any) -> None:
    """Mark a place where a fault may be injected.

    Args:
        name: dotted name of the place, such as `artifacts.commit`.
        context: values by which a script selects the occurrence (step, rank, path).
    """
    if _handler is not None:
        _handler(name, context)
