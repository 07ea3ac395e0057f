"""What a user gives to split, merge and combine; imported in replicas."""

from __future__ import annotations

from typing import Any

import numpy as np

from ganglion.core.errors import DataError

BRIGHT = 200


def by_frame(inputs: dict[str, Any]) -> Any:
    """Every frame is a part; a black one is refused."""
    frames = inputs["frames"]
    if not frames.any(axis=(1, 2)).all():
        raise DataError("a frame is black")
    return np.arange(len(frames))


def findings(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames with something bright, and their numbers."""
    found = [number for number, part in enumerate(parts) if part["brightest"].max() >= BRIGHT]
    if len(parts) == 1:
        return parts[0]
    chosen = [parts[number]["brightest"] for number in found]
    return {"brightest": np.concatenate(chosen), "frame": np.array(found)}


def wrong(inputs: dict[str, Any]) -> Any:
    return [0.5] * len(inputs["frames"])


def broken(_inputs: dict[str, Any]) -> Any:
    raise KeyError("nothing")


def endless(_inputs: dict[str, Any]) -> Any:
    while True:
        pass


def first_of_images(images: list[bytes]) -> Any:
    return [image[-1] % 7 for image in images]


def largest(answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The most confident member, of those that answered."""
    return {"probabilities": np.max([answer["probabilities"] for answer in answers.values()], axis=0)}
