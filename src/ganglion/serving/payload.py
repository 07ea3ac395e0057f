"""The instances of a request, as they travel through the gateway: never as Python numbers, never mixed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.serving import frames, strings, wire
from ganglion.serving.parts import Indices, Rows
from ganglion.serving.runtime import Tensors

Kind = tuple[Any, ...]
"""What has to be equal for payloads to be in one batch: names, types and shapes of an instance."""

_IMAGES: Kind = ("images",)
_TEXT = strings.TEXT

_calls = itertools.count(1)


class Payload:
    """Tensors in C order, or encoded images; immutable.

    Attributes:
        tensors: arrays by input name, the first size is the number of instances; empty for images. Those of objects
            hold text.
        images: content of PNG or JPEG files; empty for tensors.
        rows: number of instances, at least 1.
        kind: payloads of one kind can be in one batch.
        size: bytes.
    """

    __slots__ = ("images", "kind", "rows", "size", "tensors")

    def __init__(self, *, tensors: Tensors | None = None, images: Sequence[bytes] = ()) -> None:
        self.tensors = tensors or {}
        self.images = images
        if images:
            self.rows = len(images)
            self.kind = _IMAGES
            self.size = sum(map(len, images))
        else:
            self.rows = len(next(iter(self.tensors.values())))
            self.kind = tuple((name, values.dtype.str, values.shape[1:]) for name, values in self.tensors.items())
            self.size = sum(map(strings.size_of, self.tensors.values()))

    @classmethod
    def of_kind(cls, tensors: Tensors, rows: int, kind: Kind, size: int) -> Payload:
        """A payload of tensors about which everything is known already."""
        payload = cls.__new__(cls)
        payload.tensors, payload.images = tensors, ()
        payload.rows, payload.kind, payload.size = rows, kind, size
        return payload

    def split(self, rows: int) -> list[Payload]:
        """Cut into payloads of at most `rows` instances, in order; arrays are not copied."""
        if self.rows <= rows:
            return [self]
        return [self._slice(start, start + rows) for start in range(0, self.rows, rows)]

    def select(self, rows: Rows) -> Payload:
        """Some instances: neighbours are a view; others are named now and copied when they are sent."""
        if isinstance(rows, slice):
            return self._slice(rows.start, rows.stop)
        if self.images:
            return Payload(images=[self.images[row] for row in rows])
        return _Selection(self, rows)

    def encode(self, number: int, following: Sequence[Payload]) -> list[Any]:
        """One frame for this and further payloads of its kind, in order; neighbours are not copied."""
        payloads = (self, *following)
        if self.images:
            images = [image for payload in payloads for image in payload.images]
            return frames.encode(wire.Batch(number, images=tuple(map(len, images))), images)
        rows = sum(payload.rows for payload in payloads)
        headers = tuple([wire.TensorHeader(name, dtype, (rows, *shape)) for name, dtype, shape in self.kind])
        if _TEXT in [dtype for _name, dtype, _shape in self.kind]:
            return frames.encode(
                wire.Batch(number, tensors=headers), [_joined(name, payloads) for name, *_ in self.kind]
            )
        body = [payload.column(name) for name, _dtype, _shape in self.kind for payload in payloads]
        size = sum(payload.size for payload in payloads)
        return frames.encode_sized(wire.Batch(number, tensors=headers), body, size)

    def column(self, name: str) -> NDArray[Any]:
        """One input of all instances."""
        return self.tensors[name]

    def _slice(self, start: int, end: int) -> Payload:
        if self.images:
            return Payload(images=self.images[start:end])
        return Payload(tensors={name: values[start:end] for name, values in self.tensors.items()})


class _Selection(Payload):
    """Some instances of a payload, which are copied only when they are sent, and again when they are sent again."""

    __slots__ = ("_chosen", "_whole")

    def __init__(self, whole: Payload, chosen: Indices) -> None:
        self.tensors, self.images = {}, ()
        self.rows, self.kind = len(chosen), whole.kind
        self.size = whole.size // whole.rows * len(chosen)
        self._whole = whole
        self._chosen = chosen

    def column(self, name: str) -> NDArray[Any]:
        return self._whole.column(name)[self._chosen]


class CallPayload(Payload):
    """Arguments of a user's function, which travel alone; not instances.

    Args:
        call: what is to be done.
        tensors: arrays of any shape by name, in the order in which they are sent.
        images: encoded images, if the function takes them.
    """

    __slots__ = ("_call",)

    def __init__(self, call: wire.Call, tensors: Tensors, images: Sequence[bytes] = ()) -> None:
        self.tensors, self.images = tensors, images
        self.rows = 1
        self.kind = ("call", next(_calls))
        self.size = sum(map(strings.size_of, tensors.values())) + sum(map(len, images))
        self._call = call

    def encode(self, number: int, following: Sequence[Payload]) -> list[Any]:
        """The frame of the call."""
        assert not following, "a kind of its own is not batched"
        sizes = tuple(map(len, self.images))
        header = wire.Batch(number, wire.describe(self.tensors.items()), sizes, self._call)
        return frames.encode(header, [*self.images] or [wire.raw(values) for values in self.tensors.values()])


def _joined(name: str, payloads: Sequence[Payload]) -> memoryview:
    """One input of all instances of several payloads, as bytes: the places of texts are those in all of them."""
    columns = [payload.column(name) for payload in payloads]
    return wire.raw(columns[0] if len(columns) == 1 else np.concatenate(columns))
