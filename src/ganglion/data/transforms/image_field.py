"""What image transforms have in common: the layout of images, and the way back from floating-point numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema
from ganglion.data.transform import Transform, find_field, refuse_field, with_field

_PIXELS_AT_ONCE = 2**16  # so that intermediate results stay in the cache


class ImageTransform(Transform, frozen=True):
    """A transform of one field of images; subclasses give `field` and `transform`.

    Images are arrays of shape height x width, or height x width x channels with up to four channels, of numbers. Random
    numbers are drawn for a record and a kind of transform with its options, not for a field: images and their masks in
    one record are changed alike.

    Attributes:
        column: name of the field.
    """

    column: str

    def field(self, given: Field) -> Field:
        """The field after the transform; errors as for `schema`."""
        return given

    def transform(self, images: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        """Images of some records, in the dtype of `field`; what is given is not changed."""
        raise NotImplementedError

    def schema(self, given: Schema) -> Schema:
        """The given fields, with this one's changed."""
        return with_field(given, self.field(image_field(given, self.column, self)))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Transform the images, some at a time."""
        images = batch.columns[self.column]
        assert isinstance(images, np.ndarray), "the schema was checked"
        found = self.field(Field.of(self.column, images))
        made: Array = np.empty((len(batch), *found.shape), found.dtype)
        pixels = max(int(np.prod(images.shape[1:])), int(np.prod(found.shape)))
        step = max(1, _PIXELS_AT_ONCE // max(1, pixels))
        for start in range(0, len(batch), step):
            part = slice(start, start + step)
            made[part] = self.transform(images[part], draw, batch.ids[part])
        return batch.having({**batch.columns, self.column: made})


def image_field(given: Schema, name: str, transform: Transform) -> Field:
    """The field of images that a transform needs.

    Raises:
        DataError: it is not there, or does not hold images.
    """
    field = find_field(given, name, transform)
    if (
        not field.fixed
        or len(field.shape) not in (2, 3)
        or (len(field.shape) == 3 and not 1 <= field.shape[2] <= 4)
        or np.dtype(field.dtype).kind not in "iuf"
    ):
        raise refuse_field(
            field, transform, "images of height x width, or height x width x 1 to 4 channels, are needed"
        )
    return field


def rounded(values: npt.NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> Array:
    """Floating-point numbers as values of `dtype`: integers rounded to even, and cut off at the ends of their range."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    clipped: Array = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return clipped


def precision(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The floating-point dtype to calculate in: float64 for what float32 cannot hold exactly, else float32."""
    return np.dtype(np.float64) if dtype.itemsize > 2 and dtype != np.float32 else np.dtype(np.float32)
