"""From the bytes of a PNG or JPEG file to the pixels that a model takes.

The bytes come from anyone, so the size that a file claims is checked before a pixel is decoded.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganglion.artifacts.package import ImageInput, TensorSpec
from ganglion.core.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 32 * 2**20
"""Pixels of the largest image that is decoded; as RGB that is 96 MiB."""

_PNG_DEPTH = 24
"""Where a PNG file says how many bits a channel has."""


def decode_image(data: bytes | memoryview, image: ImageInput) -> NDArray[np.uint8]:
    """Decode an image, convert it to the mode and resize it (bilinear, antialiased) to the size that the model takes.

    Of an animation the first picture counts. Transparency, and the turn that EXIF asks for, are left out of account.

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
            if opened.mode.startswith(("I", "F")) or (opened.format == "PNG" and data[_PNG_DEPTH] > 8):
                raise DataError("The image has more than 8 bits a channel; give an 8-bit PNG or a JPEG.")
            pixels = opened.convert(image.mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"The image is too large: {error} At most {MAX_PIXELS} pixels are decoded.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise DataError(f"{len(data)} bytes given that are not a complete PNG or JPEG image.") from error
    if pixels.size != (image.width, image.height):
        pixels = pixels.resize((image.width, image.height), Image.Resampling.BILINEAR)
    return np.asarray(pixels, dtype=np.uint8)


def shape_pixels(pixels: NDArray[np.uint8], image: ImageInput, tensor: TensorSpec) -> NDArray[Any]:
    """Pixels as the input has them: scaled where it takes real numbers, channels first where it has them first.

    Args:
        pixels: from `decode_image`.
        image: what the model takes.
        tensor: its input.

    Returns:
        One instance of the input.
    """
    if image.mode == "RGB" and tensor.shape[1:] == (3, image.height, image.width) != pixels.shape:
        pixels = pixels.transpose(2, 0, 1)
    arranged = pixels.reshape(tensor.shape[1:])
    return arranged if tensor.dtype == "uint8" else arranged * np.float32(image.scale)
