"""How many values a JSON body may hold where each becomes a Python object: what is short to send can be long to parse.

`[],` a million times is three megabytes on the wire, a hundred in memory and half a second of the event loop.
"""

from __future__ import annotations

from ganglion.serving.gateway.errors import RequestError

MOST_NESTED = 2**20
"""Lists and objects of one body."""

MOST_VALUES = 2**24
"""Values of one body, lists and objects included."""

_SHORT = 2 * MOST_NESTED
"""Bytes of a body that cannot hold too many, as each list has two brackets."""


def check_values(body: bytes) -> None:
    """Refuse a body with too many values, before it is parsed.

    Brackets, braces and commas are counted wherever they are, also in texts: that is fast, and texts hold few.

    Args:
        body: JSON.

    Raises:
        RequestError: there are too many.
    """
    if len(body) <= _SHORT:
        return
    nested = body.count(b"[") + body.count(b"{")
    values = nested + body.count(b",")
    if nested > MOST_NESTED or values > MOST_VALUES:
        raise RequestError(
            413,
            f"The body holds {nested} lists and objects, and about {values} values; at most {MOST_NESTED} and "
            f"{MOST_VALUES} are read. Send fewer instances at a time, or binary tensors.",
        )
