"""From JSON values to arrays: exact types and shapes, or an error that says what was given and what is expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.artifacts.package import TensorSpec
from ganglion.serving.gateway import base64_values
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.texts import texts_of

IMAGE_KEY = "image_bytes"
"""The key of an instance that is an encoded image."""

_EXACT = 2.0**53
"""Integers below this are exact as floating-point numbers."""


def array_of(values: Sequence[Any], tensor: TensorSpec) -> NDArray[Any]:
    """Build the array of one input from the nested lists of all instances.

    Args:
        values: one nested list (or number, or text) for each instance.
        tensor: the input that they are for.

    Returns:
        An array of the input's type, `[instances, *shape]`, C order.

    Raises:
        RequestError: the lists are ragged, hold something else than numbers (or text, where the input is text), have
            another shape than the input, or hold a number that its type cannot hold.
    """
    if tensor.dtype == "string":
        return texts_of(values, tensor, encoded=True)
    expected = list(tensor.shape[1:])
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise RequestError(
            400,
            f"Input {tensor.name!r}: the lists are ragged, mixed with something else or nested too deep; "
            f"each instance has to have the shape {expected}.",
        ) from error
    if array.dtype.kind == "f" and tensor.dtype == "uint64":
        array = _exact(values, array)
    if array.dtype.kind not in "biuf":
        raise RequestError(400, f"Input {tensor.name!r}: something else than numbers was given; {_wanted(tensor)}.")
    if array.dtype.kind != "b" and _holds_truth(values):
        raise RequestError(400, f"Input {tensor.name!r}: true or false is among the numbers; {_wanted(tensor)}.")
    given = list(array.shape[1:])
    if len(given) != len(expected) or any(want not in (-1, size) for want, size in zip(expected, given, strict=True)):
        raise RequestError(
            400, f"Input {tensor.name!r}: instances of the shape {given} were given; the model takes {expected}."
        )
    return np.ascontiguousarray(_convert(array, tensor))


def _holds_truth(values: Sequence[Any]) -> bool:
    """Whether true or false is among numbers in lists of one depth; NumPy would make them 1 and 0."""
    if values and isinstance(values[0], list):
        return any(map(_holds_truth, values))
    return bool in set(map(type, values))


def _exact(values: Sequence[Any], array: NDArray[Any]) -> NDArray[Any]:
    """Small and large integers beside each other, which NumPy would take for floating-point numbers."""
    integers = np.asarray(values, object)
    exact = all(type(value) is int and 0 <= value < 2**64 for value in integers.flat)
    return integers.astype(np.uint64) if exact else array


def _convert(array: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    """Change the element type where that loses nothing but floating-point precision."""
    dtype = np.dtype(tensor.dtype)
    if (array.dtype.kind == "b") != (dtype.kind == "b"):
        raise RequestError(400, f"Input {tensor.name!r}: {_given(array)} were given; {_wanted(tensor)}.")
    if dtype.kind in "iu":
        if array.dtype.kind == "f":
            array = _whole(array)
        if array.dtype.kind == "f":
            raise RequestError(400, f"Input {tensor.name!r}: numbers with a fraction, or too large for an integer, "
                                    f"were given; {_wanted(tensor)}.")  # fmt: skip
        limits = np.iinfo(dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise RequestError(
                400,
                f"Input {tensor.name!r}: numbers from {array.min()} to {array.max()} were given; {_wanted(tensor)}.",
            )
        return array.astype(dtype, copy=False)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            converted = array.astype(dtype, copy=False)
        if not np.isfinite(converted).all():
            raise RequestError(400, f"Input {tensor.name!r}: a number is too large; {_wanted(tensor)}.")
        return converted
    return array


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """Integers that were written as 1.0, as JSON allows; numbers that are none, or are not exact, as they are."""
    exact = bool((np.abs(array) < _EXACT).all()) and bool((array == np.rint(array)).all())
    return array.astype(np.int64) if exact else array


def _given(array: NDArray[Any]) -> str:
    return {"b": "true and false", "f": "numbers"}.get(array.dtype.kind, "integers")


def _wanted(tensor: TensorSpec) -> str:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "b":
        return "the model takes true and false"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return f"the model takes {tensor.dtype}, integers from {limits.min} to {limits.max}"
    return f"the model takes {tensor.dtype}, finite numbers"


def is_image(value: Any) -> bool:
    """Whether an instance is written as an encoded image: `{"image_bytes": {"b64": ...}}` or `{"b64": ...}`."""
    return isinstance(value, dict) and value.keys() in ({IMAGE_KEY}, {"b64"})


def image_of(value: Any, number: int) -> bytes:
    """The bytes of an instance that is an encoded image.

    Args:
        value: the instance.
        number: which one it is, for the error.

    Raises:
        RequestError: it has another form, or is not base64.
    """
    inner = value.get(IMAGE_KEY, value) if isinstance(value, dict) else value
    if not base64_values.is_encoded(inner):
        raise RequestError(400, f'Instance {number} has not the form {{"{IMAGE_KEY}": {{"b64": "..."}}}} of an image.')
    data = base64_values.bytes_of(inner, f"Instance {number}")
    if not data:
        raise RequestError(400, f"Instance {number}: the image is empty.")
    return data
