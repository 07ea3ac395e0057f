from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field
from ganglion.data.transforms import Crop, Decode, Flip, Grayscale, Noise, Normalise, Resize, Rotate

RNG = np.random.default_rng(5)
GRAY = RNG.integers(0, 256, (61, 9, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (61, 9, 7, 3), np.uint8)
FLOAT = RNG.normal(size=(61, 9, 7)).astype(np.float32)

TRANSFORMS = [
    Resize("image", 13, 4),
    Resize("image", 5, 20, "nearest"),
    Normalise("image", 10.0, 3.0),
    Flip("image"),
    Flip("image", "vertical", 0.3),
    Crop("image", 4, 5),
    Crop("image", 9, 7, "random", padding=2, fill=9),
    Rotate("image", 40),
    Noise("image", 20.0),
]


def apply(transform, images: np.ndarray, *, seed: int = 0, epoch: int = 0, ids: np.ndarray | None = None) -> np.ndarray:
    ids = np.arange(len(images)) if ids is None else ids
    return transform.apply(Batch({"image": images}, ids), Draw(seed, epoch)).columns["image"]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("images", [GRAY, COLOUR, FLOAT], ids=["gray", "colour", "float"])
def test_the_size_of_batches_changes_nothing(run, transform, images: np.ndarray) -> None:
    before = images.copy()
    outcome = run({"image": images, "label": np.arange(61)}, transform, borders=(20,))
    assert outcome["label"] == list(range(61))
    assert (images == before).all()


@pytest.mark.parametrize("transform", [t for t in TRANSFORMS if not isinstance(t, Normalise)], ids=str)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 9),
    chosen=st.lists(st.integers(0, 60), min_size=1, max_size=9),
)
def test_what_is_drawn_depends_on_seed_epoch_and_record_alone(
    transform, seed: int, epoch: int, chosen: list[int]
) -> None:
    ids = np.arange(61) * 7919
    everything = apply(transform, GRAY, seed=seed, epoch=epoch, ids=ids)
    some = apply(transform, GRAY[chosen], seed=seed, epoch=epoch, ids=ids[chosen])
    assert (some == everything[chosen]).all()


@pytest.mark.parametrize(
    "transform",
    [Flip("image"), Crop("image", 5, 4, "random"), Rotate("image", 90), Noise("image", 50.0)],
    ids=str,
)
def test_another_seed_epoch_or_record_draws_anew(transform) -> None:
    same = np.repeat(GRAY[:1], 40, axis=0)
    first = apply(transform, same)
    assert len({image.tobytes() for image in first}) > 1
    for options in ({"seed": 1}, {"epoch": 1}, {"ids": np.arange(40) + 1000}):
        assert (apply(transform, same, **options) != first).any()


@pytest.mark.parametrize(("height", "width"), [(4, 3), (18, 14), (9, 7), (1, 1), (40, 2)])
def test_resize_agrees_with_pillow(height: int, width: int) -> None:
    made = apply(Resize("image", height, width), COLOUR[:5])
    for image, found in zip(COLOUR, made, strict=False):
        expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        assert np.abs(expected.astype(int) - found).max() <= 1


def test_nearest_invents_no_values() -> None:
    made = apply(Resize("image", 30, 30, "nearest"), GRAY)
    assert all(set(new.ravel()) <= set(old.ravel()) for old, new in zip(GRAY, made, strict=True))
    assert (apply(Resize("image", 18, 14, "nearest"), GRAY)[:, ::2, ::2] == GRAY).all()


def test_grayscale_agrees_with_pillow(run) -> None:
    made = run({"image": COLOUR}, Grayscale("image")).array("image")
    assert (made == np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in COLOUR])).all()
    opaque = np.concatenate([COLOUR, np.full((61, 9, 7, 1), 9, np.uint8)], axis=3)
    assert (apply(Grayscale("image"), opaque) == made).all()
    assert np.abs(apply(Grayscale("image"), COLOUR.astype(np.float32)) - made).max() <= 0.51


def test_rotate_agrees_with_pillow() -> None:
    ids = np.arange(40)
    angles = (2 * Draw(3).uniform(ids, "rotate 180.0")[:, 0] - 1) * 180
    smooth = np.add.outer(np.arange(21.0), 3 * np.arange(21.0)).astype(np.float32)
    made = apply(Rotate("image", 180.0, fill=7), np.repeat(smooth[None], 40, axis=0), seed=3)
    for angle, found in zip(angles, made, strict=True):
        expected = np.asarray(Image.fromarray(smooth).rotate(angle, Image.Resampling.BILINEAR, fillcolor=7))
        inside = (slice(6, 15), slice(6, 15))  # at the borders Pillow does not mix with what is outside
        np.testing.assert_allclose(found[inside], expected[inside], atol=0.01)
        assert (found[expected == 7] <= 100).all()
    assert (apply(Rotate("image", 0.0), GRAY) == GRAY).all()


def test_crops_are_parts_of_the_image_and_reach_every_place() -> None:
    numbered = np.arange(9 * 7, dtype=np.int64).reshape(1, 9, 7).repeat(400, axis=0)
    made = apply(Crop("image", 8, 6, "random"), numbered)
    assert {image[0, 0] for image in made} == {0, 1, 7, 8}
    assert all((image == image[0, 0] + numbered[0, :8, :6]).all() for image in made)
    assert (apply(Crop("image", 3, 3), GRAY) == GRAY[:, 3:6, 2:5]).all()
    colour = apply(Crop("image", 9, 7, "random", padding=1, fill=255), COLOUR)
    assert colour.shape == COLOUR.shape


def test_half_of_the_images_are_flipped() -> None:
    many = np.repeat(GRAY[:1], 2000, axis=0)
    flipped = (apply(Flip("image"), many) == many[:, :, ::-1]).all(axis=(1, 2))
    assert 880 < flipped.sum() < 1120
    assert (apply(Flip("image", "vertical", 1.0), GRAY) == GRAY[:, ::-1]).all()


def test_two_fields_of_a_record_are_changed_alike(run) -> None:
    outcome = run({"image": GRAY, "mask": GRAY}, Flip("image"), Flip("mask"), Rotate("image", 20), Rotate("mask", 20))
    assert outcome["image"] == outcome["mask"]


def test_the_same_transform_twice_draws_twice(run) -> None:
    twice = run({"image": np.zeros((500, 2, 2))}, Noise("image", 1.0), Noise("image", 1.0)).array("image")
    assert 1.3 < twice.std() < 1.52  # the square root of 2, not 2


def test_noise_is_normally_distributed() -> None:
    noise = apply(Noise("image", 2.0), np.zeros((200, 28, 28))).ravel() / 2
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1
    assert apply(Noise("image", 1000.0), GRAY).dtype == np.uint8


def test_normalise_by_channel_and_as_one() -> None:
    made = apply(Normalise("image", (1.0, 2.0, 3.0), (2.0, 4.0, 0.0)), COLOUR)
    expected = (COLOUR - np.array([1.0, 2.0, 3.0])) / np.array([2.0, 4.0, 1.0])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_encoded_images_are_decoded_and_what_is_none_is_bad(run) -> None:
    files = []
    for number, image in enumerate(COLOUR[:8]):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        files.append(buffer.getvalue() if number != 5 else buffer.getvalue()[:40])
    outcome = run({"image": pa.array([*files, b"", b"GIF89a"], pa.binary())}, Decode("image", 9, 7), borders=(4,))
    assert (outcome.array("image") == np.delete(COLOUR[:8], 5, axis=0)).all()
    assert len(outcome.bad) == 3
    assert {bad.stage for bad in outcome.bad} == {"decode"}
    assert run({"image": pa.array(files[:2])}, Decode("image", 3, 4, "L")).schema == (Field("image", "uint8", (3, 4)),)
    assert run({"image": pa.array(files[:1])}, Decode("image", 3, 4, most_pixels=9)).bad[0].reason.endswith("than 9")


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        (lambda: Resize("image", 0, 4), "0x4"),
        (lambda: Flip("image", chance=2), "0 to 1"),
        (lambda: Crop("image", 4, 4, padding=-1), "padding=-1"),
        (lambda: Rotate("image", 200), "0 to 180"),
        (lambda: Noise("image", float("nan")), "nan"),
        (lambda: Normalise("image", (1.0,), 2.0), "equally many"),
        (lambda: Normalise("image", 1.0, 2.0, "int8"), "int8"),
        (
            lambda: Crop("image", 40, 4).schema((Field("image", "uint8", (9, 7)),)),
            "40x4 pixels cannot be cut",
        ),
        (lambda: Resize("picture", 4, 4).schema((Field("image", "uint8", (9, 7)),)), "'picture'. Allowed: image"),
        (lambda: Resize("image", 4, 4).schema((Field("image", "uint8", (9, 7, 5)),)), "1 to 4 channels"),
        (lambda: Grayscale("image").schema((Field("image", "uint8", (9, 7)),)), "3 or 4 channels"),
        (lambda: Normalise("image", (1.0,), (1.0,)).schema((Field("image", "uint8", (9, 7)),)), "1 means"),
    ],
)
def test_what_is_not_possible_is_refused(transform, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        transform()
