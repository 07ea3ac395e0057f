"""Elements of the type BYTES in binary, as the Open Inference Protocol has them: each behind its length.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

_LENGTH = Struct("<I")

LEAST = _LENGTH.size
"""Bytes of an element at least: those of its length."""


def pack(elements: Iterable[bytes]) -> bytes:
    """Elements, one after the other.

    Raises:
        struct.error: one is too long for its length.
    """
    return b"".join([part for element in elements for part in (_LENGTH.pack(len(element)), element)])


def unpack(data: memoryview, count: int) -> list[bytes]:
    """So many elements.

    Args:
        data: what `pack` gives.
        count: how many are expected.

    Raises:
        ValueError: one is incomplete, or there are more or fewer; the message says which, to follow what it is about.
    """
    if count * LEAST > len(data):
        raise ValueError(f"has {len(data)} binary bytes, too few for {count} elements with their lengths")
    size = len(data)
    elements: list[bytes] = []
    start = 0
    for number in range(count):
        begin = start + LEAST
        end = begin + _LENGTH.unpack_from(data, start)[0] if begin <= size else size + 1
        if end > size:
            raise ValueError(f"has an incomplete element {number}, of {count} that its shape says")
        elements.append(bytes(data[begin:end]))
        start = end
    if start != len(data):
        raise ValueError(f"has {len(data) - start} binary bytes behind the {count} elements that its shape says")
    return elements
