"""Small pictures for tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels at random, shape `(height, width, 3)`."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()
