"""Which columns of a source are the inputs of a model, and how records become its batches; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.artifacts.package import PackageManifest, TensorSpec
from ganglion.core.errors import DataError, suggest
from ganglion.data.records.columns import Array, Columns
from ganglion.data.records.ragged import take_apart
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema, describe
from ganglion.serving.strings import array_of_texts

if TYPE_CHECKING:
    import pyarrow as pa

Flaws = dict[int, str]
"""What is wrong with records, by their place in a batch."""


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """What one input is made of.

    Attributes:
        tensor: the input.
        columns: the columns whose values it takes, one after the other.
        image: the only column holds encoded images, which the model decodes.
    """

    tensor: TensorSpec
    columns: tuple[str, ...]
    image: bool = False


def choose_feeds(
    manifest: PackageManifest, schema: Schema, chosen: Mapping[str, Sequence[str]] | None = None
) -> tuple[Feed, ...]:
    """Decide what each input is made of: what was chosen, the column of its name, or the only one that fits it.

    Args:
        manifest: of the model.
        schema: of the source.
        chosen: columns by input, where a person has said so; several columns of numbers are joined to a vector.

    Raises:
        DataError: there is no such input or column, none or several could be meant, or one does not fit.
    """
    given = dict(chosen or {})
    inputs = {tensor.name: tensor for tensor in manifest.signature.inputs}
    for name in given:
        if name not in inputs:
            raise DataError(f"The model has no input {name!r}. {suggest(name, inputs)}")
    takes_images = manifest.image is not None
    return tuple(_feed(tensor, schema, tuple(given.get(name, ())), takes_images) for name, tensor in inputs.items())


def feed(feeds: Sequence[Feed], columns: Columns) -> tuple[dict[str, Array], Flaws]:
    """The inputs of a model from the columns of some records.

    Args:
        feeds: for each input; none of them an image.
        columns: of the source.

    Returns:
        Arrays by input, `[records, *shape]`, and the records with a value that its input's type cannot hold, or with
        another number of values than the input has; their rows are arbitrary.
    """
    flaws: Flaws = {}
    return {one.tensor.name: _values(one, columns, flaws) for one in feeds}, flaws


def _feed(tensor: TensorSpec, schema: Schema, chosen: tuple[str, ...], takes_images: bool) -> Feed:
    fields = {field.name: field for field in schema}
    for name in chosen:
        if name not in fields:
            raise DataError(f"The source has no column {name!r}. {suggest(name, fields)}")
    if not chosen and tensor.name in fields:
        chosen = (tensor.name,)
    if not chosen:
        fitting = [field.name for field in schema if _is_image(field, takes_images) or _fits(tensor, [field])]
        if len(fitting) != 1:
            how = f"{', '.join(fitting)} all could be" if fitting else "no column can be"
            raise DataError(
                f"The source has {describe(schema)}; {how} the input {_text(tensor)} of the model. Say which, with "
                f"--feed {tensor.name}=COLUMN, or {tensor.name}=COLUMN,COLUMN,... for a vector of several."
            )
        chosen = (fitting[0],)
    used = [fields[name] for name in chosen]
    image = len(used) == 1 and _is_image(used[0], takes_images)
    if not image and not _fits(tensor, used):
        raise DataError(f"{describe(tuple(used))} does not fit the input {_text(tensor)} of the model.")
    return Feed(tensor=tensor, columns=chosen, image=image)


def _is_image(field: Field, takes_images: bool) -> bool:
    return takes_images and field.dtype == BYTES


def _fits(tensor: TensorSpec, fields: Sequence[Field]) -> bool:
    """Whether columns together have the values of an input, and values of a kind that it takes."""
    if tensor.dtype == "string":
        return [field.dtype for field in fields] == [TEXT] and tensor.shape[1:] in ((), (1,))
    kinds = {"b": "b", "u": "biu", "i": "biu", "f": "biuf"}[np.dtype(tensor.dtype).kind]
    if any(field.dtype in (TEXT, BYTES) or np.dtype(field.dtype).kind not in kinds for field in fields):
        return False
    sizes = tensor.shape[1:]
    if any(field.sequence for field in fields):  # each record has to have as many values as the input
        return len(fields) == 1 and len(sizes) > 0 and -1 not in sizes
    if -1 not in sizes:
        return sum(math.prod(field.shape) for field in fields) == math.prod(sizes)
    shape = fields[0].shape if len(fields) == 1 else (sum(math.prod(field.shape) for field in fields),)
    return len(shape) == len(sizes) and all(want in (-1, size) for want, size in zip(sizes, shape, strict=True))


def _values(feed: Feed, columns: Columns, flaws: Flaws) -> Array:
    sizes = feed.tensor.shape[1:]
    if feed.tensor.dtype == "string":
        return _texts(columns[feed.columns[0]].to_pylist(), feed.columns[0], flaws).reshape(-1, *sizes)  # type: ignore[union-attr]  # text is in Arrow
    parts = []
    for name in feed.columns:
        column = columns[name]
        numbers = column if isinstance(column, np.ndarray) else _of_length(column, name, math.prod(sizes), flaws)
        converted, lost = _converted(numbers, np.dtype(feed.tensor.dtype))
        if lost is not None:
            rows = np.flatnonzero(lost.reshape(len(lost), -1).any(axis=1))
            reason = f"{name!r} has a value that {feed.tensor.dtype} cannot hold"
            flaws.update((row, reason) for row in rows.tolist() if row not in flaws)
        parts.append(converted)
    joined = parts[0] if len(parts) == 1 else np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    return np.ascontiguousarray(joined if -1 in sizes else joined.reshape(-1, *sizes))


def _texts(values: Sequence[str | None], name: str, flaws: Flaws) -> Array:
    for row, value in enumerate(values):
        if value is None:
            flaws.setdefault(row, f"{name!r} has no text")
    return array_of_texts([value or "" for value in values], (len(values),))


def _of_length(column: pa.Array, name: str, length: int, flaws: Flaws) -> Array:
    """Sequences as rows of the length that they have to have."""
    lengths, values = take_apart(column, name)
    right = lengths == length
    for row in np.flatnonzero(~right).tolist():
        flaws.setdefault(row, f"{name!r} has {lengths[row]} values; the model takes {length}")
    rows: Array = np.zeros((len(lengths), length), values.dtype)
    rows[right] = values[np.repeat(right, lengths)].reshape(-1, length)
    return rows


def _converted(column: Array, dtype: np.dtype[Any]) -> tuple[Array, npt.NDArray[np.bool_] | None]:
    """Values of another type, and which of them it cannot hold; `None` where it holds all."""
    if np.can_cast(column.dtype, dtype):
        return column.astype(dtype, copy=False), None
    with np.errstate(over="ignore", invalid="ignore"):
        converted: Array = column.astype(dtype)
    if dtype.kind == "f":
        return converted, np.isinf(converted) & ~np.isinf(column)
    limits = np.iinfo(dtype)
    return converted, (column < limits.min) | (column > limits.max)


def _text(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.dtype} {list(tensor.shape)}"
