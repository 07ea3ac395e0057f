"""`Resize`: images of another height and width."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field
from ganglion.data.transforms.image_field import ImageTransform, precision, rounded


class Resize(ImageTransform, frozen=True, tag="ganglion.data.transforms.resize:Resize"):
    """Images are resized, whatever their proportions.

    Bilinear, a pixel is the mean of those that it covers, weighted by a triangle, so that fine patterns do not turn
    into coarse ones when images become smaller (as Pillow and torchvision with antialiasing do it). NaN spread to the
    pixels that they have a part in. Encoded images of many sizes are resized while they are decoded: see `Decode`.

    Attributes:
        column: the field of images.
        height: pixels.
        width: pixels.
        method: `bilinear`, or `nearest`, which invents no values (for masks).

    Raises:
        DataError: the size is not positive.
    """

    height: int
    width: int
    method: Literal["bilinear", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise DataError(f"Images of {self.height}x{self.width} pixels were asked for; at least 1x1 is needed.")

    def field(self, given: Field) -> Field:
        """The field with its new size."""
        return Field(given.name, given.dtype, (self.height, self.width, *given.shape[2:]))

    def transform(self, images: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        """Resize along one axis after the other."""
        sizes = (self.height, self.width)
        if self.method == "nearest":
            for axis, size in enumerate(sizes, 1):
                images = images.take(_nearest(images.shape[axis], size), axis=axis)
            return images
        made = images.astype(precision(images.dtype), copy=False)
        for axis, size in enumerate(sizes, 1):
            if images.shape[axis] != size:
                made = _along(made, axis, size)
        return rounded(made, images.dtype)


def _along(images: Array, axis: int, size: int) -> Array:
    """Weighted sums along an axis, term by term in a fixed order, so that they do not depend on the machine."""
    places, weights = _terms(images.shape[axis], size)
    shape = [1] * images.ndim
    shape[axis] = size
    total: Any = None
    for term in range(places.shape[1]):
        taken = images.take(places[:, term], axis=axis, mode="clip")  # nothing is clipped: it is faster
        taken *= weights[:, term].astype(images.dtype).reshape(shape)
        if total is None:
            total = taken
        else:
            total += taken
    result: Array = total
    return result


@lru_cache(maxsize=64)
def _terms(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each new pixel the old ones that it is made of, and their weights; both of shape `(new, terms)`."""
    scale = old / new
    reach = max(scale, 1.0)
    terms = 2 * math.ceil(reach) + 1
    centre = (np.arange(new) + 0.5) * scale
    places = np.floor(centre - reach).astype(np.int64)[:, None] + np.arange(terms)
    weights = np.maximum(0.0, 1.0 - np.abs(places + 0.5 - centre[:, None]) / reach)
    weights[(places < 0) | (places >= old)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    return np.clip(places, 0, old - 1)[:, used], weights[:, used]


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    return (2 * np.arange(new) + 1) * old // (2 * new)
