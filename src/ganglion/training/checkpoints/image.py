"""Tensors in memory exactly as their safetensors file will have them, so that writing it is moving bytes.

The format (https://github.com/huggingface/safetensors#format) is the length of a header, the header as JSON, and the
bytes of the tensors, row by row and without gaps between them.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping

import msgspec
import torch

from ganglion.core.errors import ConfigurationError
from ganglion.training.checkpoints.skeleton import strides

PAGE = 4096
"""Bytes. Images begin and end at multiples of it, as unbuffered writing needs it."""

_ALIGNMENT = 64
"""Bytes. The numbers begin at a multiple of it."""

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Place(msgspec.Struct, frozen=True):
    """Where a tensor lies in an image: its name, type, shape, strides and first byte."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    begin: int

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Layout(msgspec.Struct, frozen=True):
    """What an image looks like.

    Attributes:
        header: the first bytes.
        places: of the tensors, one behind the other.
        size: bytes of the file.
    """

    header: bytes
    places: tuple[Place, ...]
    size: int

    @property
    def room(self) -> int:
        """Bytes that the image takes in memory."""
        return -(-self.size // PAGE) * PAGE


def lay_out(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """The layout for some tensors, by name.

    Those of wide numbers come first, so that every number lies at a multiple of its size.

    Raises:
        ConfigurationError: the format has no such type of numbers.
    """
    entries = {}
    offsets: list[tuple[str, torch.Tensor, int]] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if tensor.dtype not in _TYPES:
            raise ConfigurationError(
                f"A checkpoint cannot hold {name!r} of type {tensor.dtype}; possible are {', '.join(_TYPES.values())}."
            )
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        offsets.append((name, tensor, begin))
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    places = tuple(
        Place(name, tensor.dtype, tuple(tensor.shape), strides(tensor), len(header) + begin)
        for name, tensor, begin in offsets
    )
    return Layout(header, places, len(header) + end)


class Image:
    """An image under way to its file.

    Args:
        layout: what it looks like.
        memory: where it lies; of `layout.room` bytes, from a multiple of `PAGE` on.
    """

    def __init__(self, layout: Layout, memory: torch.Tensor) -> None:
        self.layout = layout
        self._memory = memory

    @torch.no_grad()
    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors as fast as memory allows: in the order in which they lie there, whatever the format wants."""
        for place in self.layout.places:
            self._region(place).as_strided(place.shape, place.strides).copy_(tensors[place.name])

    @torch.no_grad()
    def finish(self) -> memoryview:
        """Bring everything into the order of the format; the bytes of the file, followed by zeros up to a page."""
        for place in self.layout.places:
            region = self._region(place)
            there = region.as_strided(place.shape, place.strides)
            if not there.is_contiguous():
                region.view(place.shape).copy_(there.clone())
        array = self._memory.numpy()
        array[: len(self.layout.header)] = memoryview(self.layout.header)
        array[self.layout.size :] = 0
        return memoryview(array)  # type: ignore[arg-type]  # an array is a buffer

    def _region(self, place: Place) -> torch.Tensor:
        """The numbers of a tensor, shape [numbers], as its own storage so that strides count from its begin."""
        part = self._memory[place.begin : place.begin + place.size]
        return part.view(place.dtype)


class IdleMemory:
    """Memory that snapshots are taken into; used again and again, as new memory costs more than the copy."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def fits(self, size: int) -> bool:
        """Whether that many bytes are there."""
        return size <= len(self._bytes)

    def grow(self, size: int) -> None:
        """Become of at least that many bytes, all of which really exist afterwards.

        Raises:
            OSError: there is not so much memory.
        """
        self._bytes = torch.empty(0, dtype=torch.uint8)  # the old memory is free before there is more
        room = size + size // 16  # states grow a little: a callback that keeps the best model
        mapped = mmap.mmap(-1, max(PAGE, room))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapped.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(mapped, dtype=torch.uint8)
        self._bytes.zero_()

    def cut(self, sizes: list[int]) -> list[torch.Tensor]:
        """Pieces of the memory, of these sizes; each a multiple of `PAGE`."""
        return list(torch.split(self._bytes[: sum(sizes)], sizes))
