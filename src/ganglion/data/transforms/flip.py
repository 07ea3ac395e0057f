"""`Flip`: images mirrored at random."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.transforms.image_field import ImageTransform


class Flip(ImageTransform, frozen=True, tag="ganglion.data.transforms.flip:Flip"):
    """Some images are mirrored.

    Attributes:
        column: the field of images.
        direction: `horizontal`: left and right are exchanged; `vertical`: top and bottom.
        chance: of each image in each epoch, from 0 to 1.

    Raises:
        DataError: the chance is out of range.
    """

    direction: Literal["horizontal", "vertical"] = "horizontal"
    chance: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise DataError(f"A chance of {self.chance} was given; 0 to 1 is possible.")

    def transform(self, images: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        """Mirror those for which it was drawn."""
        chosen = draw.uniform(ids, f"flip {self.direction}")[:, 0] < self.chance
        made = images.copy()
        made[chosen] = np.flip(images[chosen], axis=2 if self.direction == "horizontal" else 1)
        return made
