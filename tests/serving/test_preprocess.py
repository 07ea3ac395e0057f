from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from serving_samples import encoded, pixels

from ganglion.artifacts.package import ImageInput
from ganglion.core.errors import DataError
from ganglion.serving.preprocess import decode_image

GRAY = ImageInput(28, 28, "L")


def test_a_png_of_the_right_size_comes_out_as_it_is() -> None:
    original = pixels(1)[0]
    np.testing.assert_array_equal(decode_image(encoded(original), GRAY), original)


def test_colour_becomes_gray_and_the_size_is_changed() -> None:
    red = np.zeros((56, 70, 3), np.uint8)
    red[..., 0] = 200
    decoded = decode_image(encoded(red, "JPEG"), GRAY)
    assert decoded.shape == (28, 28)
    assert decoded.dtype == np.uint8
    assert abs(int(decoded[14, 14]) - 200 * 0.299) < 4, "ITU-R 601 luma of red"


def test_gray_becomes_colour_with_equal_channels() -> None:
    decoded = decode_image(encoded(pixels(1)[0]), ImageInput(14, 10, "RGB"))
    assert decoded.shape == (10, 14, 3)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("data", [b"x", b"GIF89a" + bytes(20), encoded(pixels(1)[0])[:60], bytes(1000)])
def test_what_is_no_complete_image_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="not a complete PNG or JPEG"):
        decode_image(data, GRAY)


@pytest.mark.parametrize(("width", "height"), [(8_000, 8_000), (60_000, 60_000)])
def test_an_image_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="pixels"):
        decode_image(bomb, GRAY)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_is_refused_whatever_its_channels(kind: int, channels: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 16, kind, 0, 0, 0))
    rows = zlib.compress(bytes(28 * (1 + 28 * channels * 2)))
    with pytest.raises(DataError, match="8 bits"):
        decode_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""), GRAY)


def test_deep_colour_is_refused_rather_than_clipped() -> None:
    deep = Image.fromarray(np.full((28, 28), 40_000, np.uint16))
    with pytest.raises(DataError, match="8 bits"):
        decode_image(encoded(np.asarray(deep)), GRAY)
