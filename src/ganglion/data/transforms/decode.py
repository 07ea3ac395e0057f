"""`Decode`: the bytes of image files as images of one size."""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import BYTES, Field, Schema
from ganglion.data.transform import BadRecordsError, Transform, find_field, refuse_field, with_field

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SHAPES = {"RGB": (3,), "L": ()}


class Decode(Transform, frozen=True, tag="ganglion.data.transforms.decode:Decode"):
    """Encoded images are decoded and resized; bytes that are no image, or one that is too large, are bad.

    Attributes:
        column: the field of encoded images.
        height: pixels.
        width: pixels.
        mode: `RGB` (height x width x 3) or `L`, gray (height x width); values are uint8.
        most_pixels: of an image as it is stored.

    Raises:
        DataError: the size is not positive.
    """

    column: str
    height: int
    width: int
    mode: Literal["RGB", "L"] = "RGB"
    most_pixels: int = 2**25

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise DataError(f"Images of {self.height}x{self.width} pixels were asked for; at least 1x1 is needed.")

    def schema(self, given: Schema) -> Schema:
        """The field as images."""
        field = find_field(given, self.column, self)
        if field.dtype != BYTES:
            raise refuse_field(field, self, "bytes of image files are needed")
        return with_field(given, Field(self.column, "uint8", (self.height, self.width, *_SHAPES[self.mode])))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Decode image after image."""
        from PIL import UnidentifiedImageError

        made = np.empty((len(batch), self.height, self.width, *_SHAPES[self.mode]), np.uint8)
        reasons = {}
        for number, encoded in enumerate(batch.columns[self.column]):
            try:
                made[number] = self._decoded(encoded.as_py())
            except MemoryError:
                raise
            except UnidentifiedImageError:  # its message names an address
                reasons[number] = f"it is no image of the formats {', '.join(_FORMATS)}"
            except Exception as error:  # noqa: BLE001  # decoders raise anything on bytes that are no image
                reasons[number] = f"it cannot be decoded: {type(error).__name__}: {error}"
        if reasons:
            raise BadRecordsError(reasons)
        return batch.having({**batch.columns, self.column: made})

    def _decoded(self, data: bytes | None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        from PIL import Image

        if not data:
            raise DataError("there are no bytes")
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if math.prod(image.size) > self.most_pixels:
                raise DataError(f"it has {image.width}x{image.height} pixels, more than {self.most_pixels}")
            image.draft(self.mode, (self.width, self.height))
            converted = image.convert(self.mode)
            if converted.size != (self.width, self.height):
                converted = converted.resize((self.width, self.height), Image.Resampling.BILINEAR)
            return np.asarray(converted)
