from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, noise
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import ImageFolderSource


def reason_of(source: ImageFolderSource) -> str:
    records, bad = read_all(source)
    assert not records
    (record,) = bad.values()
    return record.reason


def test_images_of_one_size_are_read_as_they_are_with_their_classes(put, tmp_path) -> None:
    pictures = [noise(6, 4, seed) for seed in range(4)]
    for number, name in enumerate(("cat/b.png", "cat/a.bmp", "dog/a.tiff", "emu/deep/x.ppm")):
        put(name, encoded(pictures[number], name.rpartition(".")[2].upper()))
    source = ImageFolderSource(str(tmp_path), size=(6, 4))
    assert source.class_names() == ("cat", "deep", "dog")
    columns = source.read(0, 4)
    assert columns["label"].tolist() == [0, 0, 2, 1]
    assert (columns["image"] == np.stack([pictures[1], pictures[0], pictures[2], pictures[3]])).all()
    grey = ImageFolderSource(str(tmp_path), size=(6, 4), mode="L", labels=False)
    assert grey.read(0, 4)["image"].shape == (4, 6, 4)


def test_classes_can_be_given_and_others_are_set_aside(put, tmp_path) -> None:
    for name in ("a", "b", "c"):
        put(f"{name}/1.png", encoded(noise(3, 3)))
    source = ImageFolderSource(str(tmp_path), size=(3, 3), classes=("c", "a"))
    records, bad = read_all(source)
    assert [row[1] for row in records.values()] == ["1", "0"]
    assert ["'b' is not one of the classes" in record.reason for record in bad.values()] == [True]


def test_mixed_sizes_are_resized_or_set_aside(put, tmp_path) -> None:
    put("a/1.png", encoded(noise(6, 4)))
    path = put("a/2.png", encoded(noise(5, 4)))
    assert ImageFolderSource(str(tmp_path), size=(6, 4)).read(0, 2)["image"].shape == (2, 6, 4, 3)
    records, bad = read_all(ImageFolderSource(str(tmp_path), size=(6, 4), fit="refuse"))
    assert len(records) == 1
    ((record,),) = [list(bad.values())]
    assert record.path == path
    assert "it is 5x4, not 6x4" in record.reason


def test_the_bytes_of_files_can_be_kept(put, tmp_path) -> None:
    content = encoded(noise(6, 4), "JPEG")
    put("a/1.jpg", content)
    assert ImageFolderSource(str(tmp_path)).read(0, 1)["image"].to_pylist() == [content]


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that announces many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"this is no image", "no image of a known format: PNG"),
        (encoded(noise(30, 30))[:-200], "cannot be decoded"),
        (encoded(noise(60, 60), "JPEG")[:-900], "cannot be decoded"),
        (bomb(8000, 8000), "it has 8000x8000 pixels, more than the 33554432 of `most_pixels`"),
        (bomb(60_000, 60_000), "cannot be decoded: DecompressionBomb"),
        (bomb(300, 300), "cannot be decoded"),
    ],
)
def test_what_is_no_usable_image_is_set_aside(put, tmp_path, content: bytes, reason: str) -> None:
    put("a/1.png", content)
    assert reason in reason_of(ImageFolderSource(str(tmp_path), size=(4, 4)))


def test_a_large_jpeg_is_decoded_no_larger_than_it_has_to_be(put, tmp_path) -> None:
    put("a/1.jpg", encoded(np.zeros((640, 640, 3), np.uint8), "JPEG"))
    assert len(read_all(ImageFolderSource(str(tmp_path), size=(40, 40), most_pixels=80 * 80))[0]) == 1
    put("a/1.jpg", encoded(np.zeros((640, 640, 3), np.uint8), "PNG"))
    assert "640x640" in reason_of(ImageFolderSource(str(tmp_path), size=(40, 40), most_pixels=80 * 80))


def test_a_unit_of_files_that_are_gone_is_refused(put, tmp_path) -> None:
    put("a/1.png", encoded(noise(3, 3)))
    source = ImageFolderSource(str(tmp_path), size=(3, 3))
    (unit,) = source.units()
    put("a/0.png", encoded(noise(3, 3)))
    with pytest.raises(DataError, match="divide it again"):
        list(source.read_unit(unit, 1000, lambda record: None))


def test_options_that_cannot_be_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="size"):
        ImageFolderSource(str(tmp_path), size=(0, 4))
    with pytest.raises(DataError, match="twice"):
        ImageFolderSource(str(tmp_path), classes=("a", "a"))
