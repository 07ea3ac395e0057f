"""`Rotate`: images turned by random angles."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.transforms.image_field import ImageTransform, precision, rounded


class Rotate(ImageTransform, frozen=True, tag="ganglion.data.transforms.rotate:Rotate"):
    """Each image is turned around its centre by an angle that is drawn for it, with bilinear interpolation.

    What comes from outside the image is filled. NaN spread to the pixels that they have a part in.

    Attributes:
        column: the field of images.
        degrees: largest angle; those from `-degrees` to `degrees` (against the clock) are equally likely.
        fill: value of what comes from outside.

    Raises:
        DataError: the angle is not from 0 to 180.
    """

    degrees: float
    fill: int | float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise DataError(f"Rotations by up to {self.degrees} degrees were asked for; 0 to 180 are possible.")

    def transform(self, images: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        """Take each pixel from where it was before the rotation."""
        records, height, width = images.shape[:3]
        dtype = precision(images.dtype)
        angles = (2 * draw.uniform(ids, f"rotate {self.degrees}")[:, 0] - 1) * math.radians(self.degrees)
        cosines, sines = (
            np.array([function(angle) for angle in angles.tolist()], dtype)[:, None, None]
            for function in (math.cos, math.sin)
        )
        y, x = np.mgrid[:height, :width].astype(dtype) - np.array([height - 1, width - 1], dtype)[:, None, None] / 2
        source_y = np.clip(cosines * y + sines * x + dtype.type((height - 1) / 2), -1, height)
        source_x = np.clip(cosines * x - sines * y + dtype.type((width - 1) / 2), -1, width)
        around = [(0, 0), (1, 2), (1, 2), (0, 0)][
            : images.ndim
        ]  # the cell below and to the right of the last exists too
        padded = np.pad(images, around, constant_values=images.dtype.type(self.fill))
        flat = padded.reshape(-1, *images.shape[3:])
        top, left = np.floor(source_y), np.floor(source_x)
        down, right = source_y - top, source_x - left
        step = width + 3
        first = np.arange(records, dtype=np.int64)[:, None, None] * ((height + 3) * step)
        corner = first + (top.astype(np.int64) + 1) * step + (left.astype(np.int64) + 1)
        one = dtype.type(1)
        total = None
        for offset, weight in (
            (0, (one - down) * (one - right)),
            (1, (one - down) * right),
            (step, down * (one - right)),
            (step + 1, down * right),
        ):
            taken = flat.take(corner + offset, axis=0, mode="clip").astype(dtype)  # nothing is clipped: it is faster
            taken *= weight if images.ndim == 3 else weight[..., None]
            total = taken if total is None else total + taken
        assert total is not None, "there are four corners"
        return rounded(total, images.dtype)
