"""Where vectors lie: memory that the processes of one host share, or that of a device.

Shared memory is an anonymous file: it has no name in any folder, is passed on through Unix sockets, and is gone with
the last process that has it, in whatever way that ended.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Protocol

import torch

_ALIGNMENT = 64
"""Bytes; the width of the widest vector register and of a cache line."""


_HUGE = 2 * 2**20
"""Bytes of a huge page; memory of at least that much is made of them where the kernel can do that."""


class Vectors(Protocol):
    """Vectors of one length: what a process has to offer to the others.

    Attributes:
        count: how many there may be.
        length: numbers in each.
        dtype: of the numbers.
    """

    count: int
    length: int
    dtype: torch.dtype

    def __getitem__(self, index: int) -> torch.Tensor:
        """The vector at `index`, shape [length]."""
        ...


class SharedMemory:
    """A piece of shared memory, as tensors.

    Pages that were never written take no room, so it may be made as large as it could ever have to be.

    Args:
        size: bytes.
        descriptor: the file of another process, which this object then owns; by default a new one, full of zeros.

    Attributes:
        size: bytes.
        descriptor: of the file, to be passed on.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        self.descriptor = _anonymous_file(size) if descriptor is None else descriptor
        self._map = mmap.mmap(self.descriptor, size)
        if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)

    def tensor(self, dtype: torch.dtype, offset: int, count: int) -> torch.Tensor:
        """A view of `count` numbers from the byte `offset` on; it keeps the memory mapped for as long as it lives."""
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    def close(self) -> None:
        """Give the file up; what is mapped stays until the last view of it is gone."""
        os.close(self.descriptor)


class Slots:
    """Vectors of one length in shared memory.

    Args:
        count: how many vectors there may be.
        length: numbers in each.
        dtype: of the numbers.
        descriptor: the file of another process.

    Attributes:
        memory: where they lie.
    """

    def __init__(self, count: int, length: int, dtype: torch.dtype, descriptor: int | None = None) -> None:
        self.count = count
        self.length = length
        self.dtype = dtype
        self._stride = -(-max(1, length) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self.memory = SharedMemory(count * self._stride, descriptor)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The vector at `index`, shape [length]."""
        return self.memory.tensor(self.dtype, index * self._stride, self.length)


class DeviceSlots:
    """Vectors of one length in the memory of a device, which no other process sees.

    Args:
        count: how many vectors there may be.
        length: numbers in each.
        dtype: of the numbers.
        device: where they lie.
    """

    def __init__(self, count: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.count = count
        self.length = length
        self.dtype = dtype
        self.device = device
        stride = -(-max(1, length) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT // dtype.itemsize
        self._vectors = torch.zeros(count, stride, dtype=dtype, device=device)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The vector at `index`, shape [length]."""
        return self._vectors[index, : self.length]


def vectors_for(device: torch.device, count: int, length: int, dtype: torch.dtype) -> Slots | DeviceSlots:
    """Vectors where the gradients are computed."""
    return Slots(count, length, dtype) if device.type == "cpu" else DeviceSlots(count, length, dtype, device)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a tensor without gaps, in the order in which it lies there."""
    flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()
    return memoryview(flat)  # type: ignore[arg-type]  # an array is a buffer


def _anonymous_file(size: int) -> int:
    """The descriptor of a file without a name, not inherited by programs that are started."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ganglion-training", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix="ganglion-training-")
        os.unlink(path)
    os.ftruncate(descriptor, size)
    return descriptor
