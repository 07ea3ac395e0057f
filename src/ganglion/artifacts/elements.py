"""What NumPy calls the element types of tensors; text is an array of `str`, which can be cut like any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRING = "string"
"""The element type of text: UTF-8, of any length."""


def element_type(dtype: str) -> np.dtype[Any]:
    """NumPy's type for an element type of the package format; that of objects for text.

    Raises:
        TypeError: it has none.
    """
    return np.dtype(object if dtype == STRING else dtype)


def blank(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of zeros, or of empty texts.

    Args:
        shape: sizes.
        dtype: what `element_type` gave.
    """
    return np.full(shape, "", object) if dtype.kind == "O" else np.zeros(shape, dtype)
