"""The instances of a request, as they travel through the gateway: never as Python numbers, never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ganglion.serving import wire
from ganglion.serving.runtime import Tensors

Kind = tuple[Any, ...]
"""What has to be equal for payloads to be in one batch: names, types and shapes of an instance."""

_IMAGES: Kind = ("images",)


class Payload:
    """Tensors in C order, or encoded images; immutable.

    Attributes:
        tensors: arrays by input name, the first size is the number of instances; empty for images.
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
            self.size = sum(values.nbytes for values in self.tensors.values())

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

    def _slice(self, start: int, end: int) -> Payload:
        if self.images:
            return Payload(images=self.images[start:end])
        return Payload(tensors={name: values[start:end] for name, values in self.tensors.items()})


def encode_batch(number: int, payloads: Sequence[Payload]) -> list[Any]:
    """One frame for payloads of one kind, in order; nothing is copied."""
    first = payloads[0]
    if first.images:
        images = [image for payload in payloads for image in payload.images]
        return wire.encode(wire.Batch(number, images=tuple(map(len, images))), images)
    rows = sum(payload.rows for payload in payloads)
    headers = tuple(wire.TensorHeader(name, dtype, (rows, *shape)) for name, dtype, shape in first.kind)
    body = [payload.tensors[name] for name in first.tensors for payload in payloads]
    size = sum(payload.size for payload in payloads)
    return wire.encode_sized(wire.Batch(number, tensors=headers), body, size)
