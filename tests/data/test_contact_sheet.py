"""A contact sheet is a page on which every image can be found where it belongs."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ganglion.core.errors import DataError
from ganglion.data import Field
from ganglion.data.contact_sheet import CAPTION, FRAME, GAP, TILE, contact_sheet, find_images, sheet_size

STEP = TILE + GAP


def middle(page: Image.Image, row: int, column: int, captions: bool = False) -> tuple[int, ...]:
    """The colour in the middle of a tile."""
    height = STEP + (CAPTION if captions else 0)
    found = page.getpixel((GAP + column * STEP + TILE // 2 - 1, GAP + row * height + TILE // 2 - 1))
    assert isinstance(found, tuple)
    return found


def plain(colour: tuple[int, ...], height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, len(colour)), colour, np.uint8)


def test_images_lie_row_by_row() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (200, 200, 0)]
    page = contact_sheet([plain(colour) for colour in colours], columns=2)
    assert page.size == sheet_size(5, columns=2, captions=False) == (GAP + 2 * STEP, GAP + 3 * STEP)
    assert [middle(page, number // 2, number % 2) for number in range(5)] == colours
    assert middle(page, 2, 1) == (255, 255, 255)


def test_captions_take_room_and_are_drawn() -> None:
    images = [plain((255, 255, 255))] * 2
    page = contact_sheet(images, ["a very long name that does not fit below a tile", ""], columns=2)
    assert page.size == (GAP + 2 * STEP, GAP + STEP + CAPTION)
    dark = np.asarray(page.convert("L")) < 128
    assert dark[GAP + TILE :, : GAP + STEP].any()
    assert not dark[GAP + TILE :, GAP + STEP :].any()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((4, 4), 77, np.uint8), (77, 77, 77)),
        (np.full((4, 4, 1), 77, np.uint8), (77, 77, 77)),
        (np.full((4, 4), True), (255, 255, 255)),
        (np.full((5, 5), 0.2, np.float32), (51, 51, 51)),
        (np.stack([np.full((5, 5), each, np.float64) for each in (0.0, 0.4, 1.0)]), (0, 102, 255)),
        (np.where(np.eye(4), 3.0, -1.0)[::-1].repeat(2, 0).repeat(2, 1), (0, 0, 0)),
        (plain((1, 2, 3), height=500, width=1000), (1, 2, 3)),
    ],
)
def test_arrays_of_every_layout_and_type(image: np.ndarray, expected: tuple[int, ...]) -> None:
    assert middle(contact_sheet([image]), 0, 0) == expected


def test_files_are_decoded_and_what_is_none_is_crossed_out() -> None:
    buffer = io.BytesIO()
    Image.fromarray(plain((0, 128, 255))).save(buffer, "PNG")
    page = contact_sheet([buffer.getvalue(), buffer.getvalue()[:40]], columns=2)
    assert middle(page, 0, 0) == (0, 128, 255)
    assert middle(page, 0, 1) == FRAME


def test_the_field_with_the_images_is_found() -> None:
    matrix, image, label = Field("matrix", "float32", (3, 4)), Field("image", "uint8", (4, 4)), Field("y", "int64")
    columns = {"matrix": np.zeros((1, 3, 4), np.float32), "image": np.zeros((1, 4, 4), np.uint8), "y": np.zeros(1)}
    assert find_images((label, matrix, image), columns) == image
    assert find_images((label, matrix), columns) == matrix
    files = Field("file", "bytes")
    assert find_images((files,), {"file": pa.array([b"\x89PNG and more"])}) == files
    with pytest.raises(DataError, match="no images in file bytes"):
        find_images((files,), {"file": pa.array([b"words"])})


def test_no_image_and_what_is_none_are_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        contact_sheet([])
    with pytest.raises(DataError, match="shape"):
        contact_sheet([np.zeros((2, 3, 4, 5))])
