"""`Grayscale`: colour images as gray ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field
from ganglion.data.transform import refuse_field
from ganglion.data.transforms.image_field import ImageTransform, precision

_WEIGHTS = 0.299, 0.587, 0.114  # ITU-R Recommendation BT.601, section 2.5.1
_FIXED_POINT = 19595, 38470, 7471  # the same in units of 2**-16


class Grayscale(ImageTransform, frozen=True, tag="ganglion.data.transforms.grayscale:Grayscale"):
    """Images of shape height x width x 3 or 4 become height x width; a fourth channel (opacity) is left out.

    The weights are those of ITU-R BT.601. A pixel with a NaN is NaN.

    Attributes:
        column: the field of images.
    """

    def field(self, given: Field) -> Field:
        """The field without channels."""
        if len(given.shape) != 3 or given.shape[2] < 3:
            raise refuse_field(given, self, "images with 3 or 4 channels are needed")
        return Field(given.name, given.dtype, given.shape[:2])

    def transform(self, images: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        """Add up the channels, of 8 bits without floating point."""
        if images.dtype == np.uint8:
            total = np.full(images.shape[:3], 1 << 15, np.uint32)
            for channel, weight in enumerate(_FIXED_POINT):
                total += images[..., channel] * np.uint32(weight)
            return (total >> np.uint32(16)).astype(np.uint8)
        dtype = precision(images.dtype)
        gray = sum(images[..., channel] * dtype.type(weight) for channel, weight in enumerate(_WEIGHTS))
        made: Array = np.rint(gray) if images.dtype.kind in "iu" else gray
        return made.astype(images.dtype)
