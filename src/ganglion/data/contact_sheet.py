"""Contact sheets: many small images on one page, for looking at the images of a dataset at a glance."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array, Column
from ganglion.data.records.schema import BYTES, Field, Schema, describe

TILE = 96
"""Pixels of the square that an image is fitted into; smaller ones are enlarged by whole factors."""

CAPTION = 16
"""Pixels below each image for its caption."""

GAP = 6
"""Pixels between tiles and around them."""

PAPER, INK, FRAME = (255, 255, 255), (40, 40, 40), (200, 60, 60)

_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"P5", b"P6")


def sheet_size(images: int, *, columns: int, captions: bool) -> tuple[int, int]:
    """Width and height in pixels of a page with so many images."""
    rows = math.ceil(images / columns)
    row = TILE + (CAPTION if captions else 0)
    return GAP + min(images, columns) * (TILE + GAP), GAP + rows * (row + GAP)


def contact_sheet(
    images: Sequence[Array | bytes], captions: Sequence[str] = (), *, columns: int | None = None
) -> Image.Image:
    """Lay images out on one page, row by row.

    Args:
        images: at least one; arrays of shape `(height, width)`, `(height, width, 1, 3 or 4)` or `(1 or 3, height,
            width)`, of type uint8, booleans, or other numbers, which are stretched from black to white unless they lie
            from 0 to 1; or the bytes of image files. A file that cannot be decoded leaves a crossed-out tile.
        captions: one for each image, or none at all.
        columns: tiles in a row; as many as make the page about square where `None`.

    Returns:
        The page, in colour; `sheet_size` says how large it is.

    Raises:
        DataError: there is no image, or an array is none.
    """
    if not images:
        raise DataError("There is no image for the contact sheet.")
    columns = columns or math.ceil(math.sqrt(len(images)))
    page = Image.new("RGB", sheet_size(len(images), columns=columns, captions=bool(captions)), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(12)
    height = TILE + (CAPTION if captions else 0) + GAP
    for number, image in enumerate(images):
        left = GAP + number % columns * (TILE + GAP)
        top = GAP + number // columns * height
        tile = _tile(image)
        if tile is None:
            square = (left, top, left + TILE - 1, top + TILE - 1)
            draw.rectangle(square, outline=FRAME)
            draw.line(square, fill=FRAME)
        else:
            page.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
        if captions:
            text = _fitted(captions[number], draw, font)
            draw.text((left + TILE // 2, top + TILE + CAPTION // 2), text, fill=INK, font=font, anchor="mm")
    return page


def find_images(schema: Schema, columns: Mapping[str, Column]) -> Field:
    """The field that holds images: one named `image` if it can, else the first that can.

    Args:
        schema: of the records.
        columns: some records, by which bytes of images are told from other bytes.

    Raises:
        DataError: no field can hold images.
    """
    possible = [field for field in schema if _has_shape(field.shape) or _holds_files(field, columns[field.name])]
    if not possible:
        raise DataError(
            f"There are no images in {describe(schema)}. A contact sheet needs a field of shape height x width, "
            "height x width x 1, 3 or 4, or the bytes of image files."
        )
    return next((field for field in possible if field.name == "image"), possible[0])


def images_of(column: Column) -> list[Array | bytes]:
    """The single images of a column."""
    return list(column) if isinstance(column, np.ndarray) else column.to_pylist()


def _has_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] in (1, 3, 4) or shape[0] in (1, 3)))


def _holds_files(field: Field, column: Column) -> bool:
    if field.dtype != BYTES or not len(column):
        return False
    first = column[0]
    return not isinstance(first, np.ndarray) and (first.as_py() or b"").startswith(_SIGNATURES)


def _tile(image: Array | bytes) -> Image.Image | None:
    """An image fitted into a tile; nothing for bytes that are none."""
    if isinstance(image, bytes):
        try:
            found = Image.open(io.BytesIO(image)).convert("RGB")
        except Exception:  # noqa: BLE001  # decoders raise anything on bytes that are no image
            return None
    else:
        found = Image.fromarray(_pixels(image)).convert("RGB")
    longest = max(found.size)
    if longest > TILE:
        found.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    elif (factor := TILE // longest) > 1:
        found = found.resize((found.width * factor, found.height * factor), Image.Resampling.NEAREST)
    return found


def _pixels(array: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image as uint8 of shape `(height, width)` or `(height, width, 3 or 4)`."""
    if not _has_shape(array.shape):
        raise DataError(f"An array of shape {array.shape} is no image.")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    values = np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8))


def _fitted(text: str, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """A caption that is no wider than a tile."""
    while len(text) > 1 and draw.textlength(text, font=font) > TILE:
        text = f"{text.rstrip('…')[:-1]}…"
    return text
