"""How many values a JSON body may hold where each becomes a Python object: what is short to send can be long to parse.

`[],` a million times is three megabytes on the wire, a hundred in memory and half a second of the event loop.
"""

from __future__ import annotations

import numpy as np

from ganglion.serving.gateway.errors import RequestError

MOST_NESTED = 2**20
"""Lists and objects of one body."""

MOST_VALUES = 2**24
"""Values of one body, lists and objects included."""

_SHORT = 2 * MOST_NESTED
"""Bytes of a body that cannot hold too many, as each list has two brackets."""


_PIECE = 2**20
"""Bytes that are looked at together."""


def check_values(body: bytes) -> None:
    """Refuse a body with too many values, before it is parsed.

    Brackets, braces and commas are counted wherever they are, which is fast; only where there are too many it matters
    that some are in texts.

    Args:
        body: JSON.

    Raises:
        RequestError: there are too many.
    """
    if len(body) <= _SHORT:
        return
    nested, values = _count(body)
    if nested > MOST_NESTED or values > MOST_VALUES:
        nested, values = _count_outside_texts(body)
    if nested > MOST_NESTED or values > MOST_VALUES:
        raise RequestError(
            413,
            f"The body holds {nested} lists and objects, and about {values} values; at most {MOST_NESTED} and "
            f"{MOST_VALUES} are read. Send fewer instances at a time, or binary tensors.",
        )


def _count(body: bytes) -> tuple[int, int]:
    """Lists and objects, and about how many values."""
    nested = body.count(b"[") + body.count(b"{")
    return nested, nested + body.count(b",")


def _count_outside_texts(body: bytes) -> tuple[int, int]:
    """The same, but for what is between quotation marks; in little memory, whatever the body is."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    nested = values = 0
    within = np.uint8(0)
    for start in range(0, len(plain), _PIECE):
        piece = np.frombuffer(plain, np.uint8, min(_PIECE, len(plain) - start), start)
        inside = np.bitwise_xor.accumulate((piece == ord('"')).view(np.uint8)) ^ within
        within = inside[-1]
        more, all_ = _count(piece[inside == 0].tobytes())
        nested, values = nested + more, values + all_
    return nested, values
