"""The state of a training between two commits: everything that the next step depends on.

It is a function of the training and the number of commits alone, so whoever has the most commits can give it to the
others. It travels as a skeleton and raw bytes: tensors keep their layout in memory, which fused optimizers rely on.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from ganglion.training.memory import bytes_of

_Form = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Type, shape and strides of a tensor."""


def pack(value: Any) -> tuple[bytes, list[torch.Tensor]]:
    """Take a value apart.

    Args:
        value: tensors, in containers and objects that can be pickled.

    Returns:
        A header, and the tensors in its order; those that lie in memory without gaps are not copied.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(value)
    forms = [(str(t.dtype).removeprefix("torch."), tuple(t.shape), t.stride()) for t in pickler.tensors]
    return msgspec.msgpack.encode((stream.getvalue(), forms)), pickler.tensors


def room(header: bytes) -> list[torch.Tensor]:
    """Tensors for what belongs to `header`, of undefined content."""
    _, forms = msgspec.msgpack.decode(header, type=tuple[bytes, list[_Form]])
    return [torch.empty_strided(shape, strides, dtype=getattr(torch, name)) for name, shape, strides in forms]


def unpack(header: bytes, tensors: Sequence[torch.Tensor]) -> Any:
    """Put a value together again; only for bytes from a process of the same job, as they may call anything."""
    skeleton, _ = msgspec.msgpack.decode(header, type=tuple[bytes, list[_Form]])
    unpickler = _Unpickler(io.BytesIO(skeleton))
    unpickler.tensors = tensors
    return unpickler.load()


def digest(value: Any) -> str:
    """SHA-256 of everything in a value, in hexadecimal.

    Args:
        value: tensors and plain data in dictionaries, lists and tuples.
    """
    found = hashlib.sha256()

    def take(part: Any, place: str) -> None:
        found.update(place.encode())
        if isinstance(part, torch.Tensor):
            found.update(repr((part.dtype, tuple(part.shape))).encode())
            found.update(bytes_of(part.detach().cpu().contiguous()))
        elif isinstance(part, dict):
            for key, entry in part.items():
                take(entry, f"{place}/{key!r}")
        elif isinstance(part, (list, tuple)):
            for index, entry in enumerate(part):
                take(entry, f"{place}/{index}")
        else:
            found.update(repr(part).encode())

    take(value, "")
    return found.hexdigest()


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, torch.Tensor):
            return None
        tensor = obj.detach().cpu()
        self.tensors.append(tensor if _has_no_gaps(tensor) else tensor.contiguous())
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    tensors: Sequence[torch.Tensor] = ()

    def persistent_load(self, pid: Any) -> torch.Tensor:
        return self.tensors[int(pid)]


def _has_no_gaps(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one piece of memory, in whatever order."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
