"""The names of classes that a source knows, for the manifest of the dataset that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ganglion.core.errors import DataError
from ganglion.data.source import Source
from ganglion.data.sources.mixed import MixedSource
from ganglion.data.sources.transformed import TransformedSource
from ganglion.data.transform import Transform
from ganglion.data.transforms.decode import Decode
from ganglion.data.transforms.elementwise import Elementwise
from ganglion.data.transforms.fields import Drop, Select
from ganglion.data.transforms.filter import Filter
from ganglion.data.transforms.image_field import ImageTransform

LABEL = "label"
"""The field whose values are numbers of classes, of every source that knows their names."""

Classes = Mapping[str, tuple[str, ...]]


def class_names(source: Source) -> dict[str, tuple[str, ...]]:
    """Names of classes, by the column whose values are their numbers.

    Nothing is said where transforms come between that may give other numbers, or where sources that are mixed do not
    agree.

    Args:
        source: that is read.

    Raises:
        DataError: the source is missing.
    """
    if all(field.name != LABEL for field in source.schema):
        return {}
    found = set(_names(source))
    names = found.pop() if len(found) == 1 else ()
    return {LABEL: names} if names else {}


def check_classes(before: Classes, now: Classes) -> None:
    """Refuse to add records to a dataset in which the numbers of classes mean something else.

    Args:
        before: names of the classes of the dataset, by column.
        now: those of what is to be added; further classes may follow.

    Raises:
        DataError: a number has another name.
    """
    for column, names in before.items():
        found = now.get(column, ())
        if found[: len(names)] != names:
            raise DataError(
                f"The classes of {column!r} are {', '.join(found) or 'not named'} now, and were {', '.join(names)}, so "
                "that their numbers mean something else. Name the classes in the old order, new ones last, or prepare "
                "the source anew."
            )


def _names(source: Source) -> Iterator[tuple[str, ...]]:
    """What each of the sources that records come from says; nothing is an empty tuple."""
    if isinstance(source, MixedSource):
        for inner in source.sources:
            yield from _names(inner)
    elif isinstance(source, TransformedSource) and not all(map(_leaves_labels, source.transforms)):
        yield ()
    elif (inner := getattr(source, "source", None)) is not None:
        yield from _names(inner)
    else:
        known: Callable[[], tuple[str, ...]] | None = getattr(source, "class_names", None)
        yield known() if known is not None else ()


def _leaves_labels(transform: Transform) -> bool:
    return isinstance(transform, Decode | Drop | Filter | ImageTransform | Select) or (
        isinstance(transform, Elementwise) and transform.column != LABEL
    )
