from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganglion.artifacts.store import FolderStore
from ganglion.data import IdxSource

sys.path.insert(0, str(Path(__file__).parent))  # the modules that the tests here share

IDX_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def encode_idx(array: np.ndarray) -> bytes:
    """Write an array in the IDX format, straight from the format's description."""
    header = bytes([0, 0, IDX_CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[..., IdxSource]:
    """Write images and labels as IDX files and return the source that reads them."""

    def write(images: np.ndarray, labels: np.ndarray, *, compressed: bool = False) -> IdxSource:
        paths = []
        for name, array in (("images", images), ("labels", labels)):
            data = encode_idx(array)
            path = tmp_path / f"{name}.idx{'.gz' * compressed}"
            path.write_bytes(gzip.compress(data) if compressed else data)
            paths.append(str(path))
        return IdxSource(images=paths[0], labels=paths[1])

    return write
