"""From the bytes of a PNG or JPEG file to the pixels that a model takes.

The bytes come from anyone, so the size that a file claims is checked before a pixel is decoded.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganglion.artifacts.package import ImageInput
from ganglion.core.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 32 * 2**20
"""Pixels of the largest image that is decoded; as RGB that is 96 MiB."""


def decode_image(data: bytes | memoryview, image: ImageInput) -> NDArray[np.uint8]:
    """Decode an image, convert it to the mode and resize it (bilinear, antialiased) to the size that the model takes.

    Args:
        data: the content of a PNG or JPEG file.
        image: what the model takes.

    Returns:
        Pixels, uint8, `[height, width]` for mode `L` and `[height, width, 3]` for mode `RGB`.

    Raises:
        DataError: this is no PNG or JPEG image, it is damaged, has too many pixels or more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise DataError(f"The image has {width}x{height} pixels; at most {MAX_PIXELS} in all are decoded.")
            if opened.mode.startswith(("I", "F")):
                raise DataError("The image has more than 8 bits a channel; give an 8-bit PNG or a JPEG.")
            pixels = opened.convert(image.mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"The image is too large: {error} At most {MAX_PIXELS} pixels are decoded.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise DataError(f"{len(data)} bytes given that are not a complete PNG or JPEG image.") from error
    if pixels.size != (image.width, image.height):
        pixels = pixels.resize((image.width, image.height), Image.Resampling.BILINEAR)
    return np.asarray(pixels, dtype=np.uint8)
