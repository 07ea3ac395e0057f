"""What predictions say, for people: the best classes of one, and which version of a service was meant."""

from __future__ import annotations

from typing import Any

from ganglion.core.errors import UserError

BEST = 3
"""How many classes are shown of each prediction."""


def best_classes(prediction: Any, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The classes with the highest numbers, best first; none where a prediction is not one number for each class."""
    if not isinstance(prediction, list) or not all(isinstance(number, int | float) for number in prediction):
        return []
    order = sorted(range(len(prediction)), key=lambda index: -prediction[index])[:BEST]
    named = len(classes) == len(prediction)
    return [{"class": classes[index] if named else index, "value": prediction[index]} for index in order]


def best_class(prediction: Any, classes: tuple[str, ...]) -> str | None:
    """The name of the class with the highest number; nothing where classes have no names."""
    if not classes or not isinstance(prediction, list) or len(prediction) != len(classes):
        return None
    best = best_classes(prediction, classes)
    return str(best[0]["class"]) if best else None


def served_version(model: str) -> tuple[str, int | None]:
    """Name and version that are asked of a service.

    Raises:
        UserError: an alias was given, which a service need not know.
    """
    name, separator, selector = model.partition(":")
    if separator and not selector.isdecimal():
        raise UserError(f"{selector!r} is an alias, which only this folder knows; give a number, or leave --url out.")
    return name, int(selector) if separator else None
