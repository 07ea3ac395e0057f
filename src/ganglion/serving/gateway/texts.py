"""From JSON values, or elements in binary, to arrays of text: exact shapes and UTF-8, or an error that says where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.serving import byte_elements
from ganglion.serving.gateway import base64_values
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.strings import array_of_texts, problem

MOST_TEXTS = 2**20
"""Texts of one input: each becomes a Python object, which takes more than the few bytes by which it is sent."""

_NAMES = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}


def takes_text(signature: Signature) -> bool:
    """Whether an input is text; then `{"b64": ...}` is no image."""
    return any(tensor.dtype == "string" for tensor in signature.inputs)


def texts_of(values: Sequence[Any], tensor: TensorSpec, *, encoded: bool, what: str = "instance") -> NDArray[Any]:
    """Build the array of one input from the nested lists of all instances.

    Args:
        values: one nested list (or text) for each instance.
        tensor: the input that they are for.
        encoded: whether `{"b64": ...}` is text as well: its UTF-8 in base64.
        what: one of them is called, for the error.

    Returns:
        An array of `str`, `[instances, *shape]`.

    Raises:
        RequestError: the lists have another shape than the input, hold something else than text, or too many.
    """
    expected = tensor.shape[1:]
    shape = [len(values)]
    flat = list(values)
    for size in expected:
        found = {len(value) if isinstance(value, list) else -1 for value in flat}
        given = found.pop() if len(found) == 1 else -1
        if given < 0 or size not in (-1, given):
            raise RequestError(400, f"Input {tensor.name!r}: each instance has to have the shape {list(expected)}.")
        shape.append(given)
        flat = list(chain.from_iterable(flat))
    _check_count(tensor.name, len(flat))
    if set(map(type, flat)) - {str}:
        each = math.prod(shape[1:])
        wheres = (f"Input {tensor.name!r}, {what} {number // each}" for number in range(len(flat)))
        flat = [
            value if isinstance(value, str) else _text(value, where, encoded=encoded)
            for value, where in zip(flat, wheres, strict=True)
        ]
    array = array_of_texts(flat, shape)
    if wrong := problem(array):
        raise RequestError(400, f"Input {tensor.name!r}: {wrong}.")
    return array


def texts_of_elements(data: memoryview, name: str, shape: Sequence[int]) -> NDArray[Any]:
    """Build the array of one input from its elements in binary, each behind its length.

    Args:
        data: the elements.
        name: of the input.
        shape: of the array.

    Raises:
        RequestError: they are more or fewer than the shape says or than are read, one is incomplete, or no UTF-8.
    """
    _check_count(name, min(math.prod(shape), len(data) // byte_elements.LEAST))
    try:
        elements = byte_elements.unpack(data, math.prod(shape))
    except ValueError as error:
        raise RequestError(400, f"Input {name!r} {error}.") from error
    try:
        texts = list(map(bytes.decode, elements))
    except UnicodeDecodeError:
        texts = [_decoded(element, f"Input {name!r}, element {number}") for number, element in enumerate(elements)]
    return array_of_texts(texts, shape)


def _check_count(name: str, count: int) -> None:
    if count > MOST_TEXTS:
        raise RequestError(
            413, f"Input {name!r} has {count} texts; at most {MOST_TEXTS} are read. Send fewer instances at a time."
        )


def _text(value: Any, where: str, *, encoded: bool) -> str:
    if encoded and base64_values.is_encoded(value):
        return _decoded(base64_values.bytes_of(value, where), where)
    allowed = 'text or {"b64": ...}' if encoded else "text"
    raise RequestError(400, f"{where}: {_NAMES.get(type(value), 'null')} was given; the model takes {allowed}.")


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{where}: the bytes are not UTF-8 ({error.reason} at {error.start}).") from error
