"""What gateway and replica say to each other: one frame for each batch, one for its answer.

The body of a frame is the bytes of tensors (of text: as `ganglion.serving.strings` has them) or encoded images, one
after the other. Nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ganglion.core.errors import ControlError
from ganglion.serving import strings
from ganglion.serving.frames import Buffer


class TensorHeader(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of the body: name, what NumPy calls its dtype, shape; C order, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Call(msgspec.Struct, frozen=True, array_like=True):
    """What is asked of a user's function in place of a prediction.

    Attributes:
        role: `split` (inputs to the number of the part of each instance), `merge` (outputs of the parts to outputs) or
            `combine` (outputs of several models to outputs).
        function: `module:function`.
        groups: names of parts or models; a tensor of one is called `number/name`, by its place here.
        seconds: that it may take.
    """

    role: Literal["split", "merge", "combine"]
    function: str
    groups: tuple[str, ...] = ()
    seconds: float = 30.0


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Instances to predict: tensors, or encoded images.

    Attributes:
        id: chosen by the gateway; the answer carries it.
        tensors: the tensors in the body; the first size of each is the number of instances.
        images: bytes of each encoded image in the body, if the instances are images.
        call: what is to be called with them, if they are not to be predicted.
    """

    id: int
    tensors: tuple[TensorHeader, ...] = ()
    images: tuple[int, ...] = ()
    call: Call | None = None


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why there is no prediction for one instance.

    Attributes:
        row: number of the instance in the batch.
        invalid: the instance is at fault, not the model.
        message: one line for a person.
    """

    row: int
    invalid: bool
    message: str


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """Predictions for a batch.

    Attributes:
        id: of the batch.
        tensors: the outputs in the body; rows of failed instances are zeros. Empty if every instance failed.
        failures: the instances without a prediction.
    """

    id: int
    tensors: tuple[TensorHeader, ...] = ()
    failures: tuple[Failure, ...] = ()


_batches = msgspec.msgpack.Decoder(Batch)
_answers = msgspec.msgpack.Decoder(Answer)


def decode_batch(header: Buffer) -> Batch:
    """Read the header of a batch.

    Raises:
        ControlError: it is not one.
    """
    try:
        return _batches.decode(header)
    except msgspec.DecodeError as error:
        raise ControlError(f"A frame that is not a batch: {error}.") from error


def decode_answer(header: Buffer) -> Answer:
    """Read the header of an answer.

    Raises:
        ControlError: it is not one.
    """
    try:
        return _answers.decode(header)
    except msgspec.DecodeError as error:
        raise ControlError(f"A frame that is not an answer: {error}.") from error


def describe(tensors: Iterable[tuple[str, NDArray[Any]]]) -> tuple[TensorHeader, ...]:
    """Headers of arrays."""
    return tuple(TensorHeader(name, array.dtype.str, array.shape) for name, array in tensors)


def raw(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order, not copied when they already are; of text a new buffer."""
    if array.dtype.hasobject:
        return memoryview(strings.encode(array))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def tensors_of(headers: Sequence[TensorHeader], body: memoryview) -> dict[str, NDArray[Any]]:
    """Arrays over the bytes of a body, copied only where they are not aligned, or text.

    Raises:
        ControlError: the body is shorter or longer than its headers say.
    """
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for header in headers:
        try:
            if header.dtype == strings.TEXT:
                arrays[header.name], start = strings.decode(header.shape, body, start)
                continue
            dtype = np.dtype(header.dtype)
            count = math.prod(header.shape)
            array = np.frombuffer(body, dtype, count, start).reshape(header.shape)
        except (TypeError, ValueError) as error:
            raise ControlError(f"Tensor {header.name!r} does not fit its frame: {error}.") from error
        arrays[header.name] = array if array.flags.aligned else array.copy()
        start += count * dtype.itemsize
    if start != body.nbytes:
        raise ControlError(f"A frame has {body.nbytes} bytes of tensors; its header says {start}.")
    return arrays


def images_of(sizes: Sequence[int], body: memoryview) -> list[memoryview]:
    """Encoded images over the bytes of a body, not copied.

    Raises:
        ControlError: the body is shorter or longer than the sizes say.
    """
    if min(sizes, default=0) < 0 or sum(sizes) != body.nbytes:
        raise ControlError(f"A frame has {body.nbytes} bytes of images; its header says {sum(sizes)}.")
    images = []
    start = 0
    for size in sizes:
        images.append(body[start : start + size])
        start += size
    return images
