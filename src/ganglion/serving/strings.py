"""Tensors of text: NumPy arrays of `str`. What is no text, how long one is, and how it travels between processes.

Beside each other in one buffer are where each text ends (int64, little-endian, counted from the first text), and the
UTF-8 of all texts. Nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT = np.dtype(object).str
"""How NumPy writes the type of arrays of Python objects; all that are served hold `str`."""

_END = np.dtype("<i8")


def size_of(values: NDArray[Any]) -> int:
    """Bytes that an array of numbers or of text has between processes."""
    if not values.dtype.hasobject:
        return values.nbytes
    texts = values.reshape(-1).tolist()
    return _END.itemsize * len(texts) + sum([len(text) if text.isascii() else len(text.encode()) for text in texts])


def problem(values: NDArray[Any]) -> str:
    """Why an array is no text; empty where it is."""
    if values.dtype.kind != "O":
        return f"{values.dtype} was given; text is expected"
    texts = values.reshape(-1).tolist()
    kinds = sorted({kind.__name__ for kind in set(map(type, texts)) if not issubclass(kind, str)})
    if kinds:
        return f"{', '.join(kinds)} was given; text is expected"
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return "a half of a surrogate pair was given, which is no text"
    return ""


def encode(values: NDArray[Any]) -> bytes:
    """The bytes of an array of text, in C order."""
    texts = [text.encode() for text in values.reshape(-1).tolist()]
    ends = np.cumsum(np.fromiter(map(len, texts), _END, len(texts)), dtype=_END)
    return b"".join([ends.tobytes(), *texts])


def decode(shape: Sequence[int], body: memoryview, start: int) -> tuple[NDArray[Any], int]:
    """The array of text that begins at a place of a buffer.

    Args:
        shape: of the array.
        body: bytes.
        start: of the array within them.

    Returns:
        The array, and where it ends.

    Raises:
        ValueError: it is longer than the buffer, or no text.
    """
    if min(shape, default=0) < 0:
        raise ValueError(f"{list(shape)} is no shape")
    ends = np.frombuffer(body, _END, math.prod(shape), start)
    start += ends.nbytes
    total = int(ends[-1]) if len(ends) else 0
    if (len(ends) and (int(ends[0]) < 0 or bool((ends[1:] < ends[:-1]).any()))) or total > body.nbytes - start:
        raise ValueError(f"its texts have other lengths than the {body.nbytes - start} bytes that are there")
    data = body[start : start + total]
    bounds = [0, *ends.tolist()]
    whole = str(data, "utf-8")
    if len(whole) == total:  # one byte for each character, so that the ends count characters as well
        texts = [whole[begin:end] for begin, end in pairwise(bounds)]
    else:
        texts = [str(data[begin:end], "utf-8") for begin, end in pairwise(bounds)]
    return array_of_texts(texts, shape), start + total


def array_of_lists(given: Any) -> NDArray[Any]:
    """What NumPy makes of lists, but with text as `str`: NumPy's own is all as long as the longest, and loses NULs."""
    first = given
    while isinstance(first, list | tuple) and first:
        first = first[0]
    return np.asarray(given, object if isinstance(first, str) else None)


def array_of_texts(texts: Sequence[str], shape: Sequence[int]) -> NDArray[Any]:
    """An array of text from its elements in C order."""
    values = np.empty(len(texts), object)
    values[:] = texts
    return values.reshape(shape)
