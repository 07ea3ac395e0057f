"""`Crop`: a part of each image."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field
from ganglion.data.transform import refuse_field
from ganglion.data.transforms.image_field import ImageTransform


class Crop(ImageTransform, frozen=True, tag="ganglion.data.transforms.crop:Crop"):
    """Of each image a part of one size is kept, from the centre or from a place drawn at random.

    Attributes:
        column: the field of images.
        height: pixels.
        width: pixels.
        at: `centre` or `random`.
        padding: pixels of `fill` that are put around an image before.
        fill: their value.

    Raises:
        DataError: a size is not possible.
    """

    height: int
    width: int
    at: Literal["centre", "random"] = "centre"
    padding: int = 0
    fill: int | float = 0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.padding < 0:
            raise DataError(
                f"A crop of {self.height}x{self.width} pixels with padding={self.padding} was asked for; at least 1x1 "
                "and 0 are needed."
            )

    def field(self, given: Field) -> Field:
        """The field with its new size."""
        height, width = (size + 2 * self.padding for size in given.shape[:2])
        if self.height > height or self.width > width:
            raise refuse_field(given, self, f"{self.height}x{self.width} pixels cannot be cut out of {height}x{width}")
        return Field(given.name, given.dtype, (self.height, self.width, *given.shape[2:]))

    def transform(self, images: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        """Cut out."""
        if self.padding:
            around = [(0, 0), (self.padding, self.padding), (self.padding, self.padding), (0, 0)][: images.ndim]
            images = np.pad(images, around, constant_values=images.dtype.type(self.fill))
        room = images.shape[1] - self.height, images.shape[2] - self.width
        if self.at == "centre":
            top, left = room[0] // 2, room[1] // 2
            return images[:, top : top + self.height, left : left + self.width]
        drawn = draw.uniform(ids, f"crop {self.height} {self.width} {self.padding}", 2)
        tops, lefts = (drawn * (np.array(room) + 1)).astype(np.int64).T
        windows = np.lib.stride_tricks.sliding_window_view(images, (self.height, self.width), (1, 2))
        cut: Array = windows[np.arange(len(images)), tops, lefts]
        return cut if images.ndim == 3 else cut.transpose(0, 2, 3, 1)
