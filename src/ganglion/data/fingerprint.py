"""A digest of records that depends on their values alone, not on how they are stored or cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def fingerprint_columns(header: bytes, names: Sequence[str], batches: Iterable[Mapping[str, npt.NDArray[Any]]]) -> str:
    """Digest column batches.

    Args:
        header: what else belongs to the digest (the schema).
        names: the columns, in order.
        batches: arrays by column name; the digest is the same however the records are cut into batches.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    digests = [hashlib.sha256() for _ in names]
    for batch in batches:
        for name, digest in zip(names, digests, strict=True):
            digest.update(little_endian_bytes(batch[name]))
    whole = hashlib.sha256(header)
    for digest in digests:
        whole.update(digest.digest())
    return f"sha256:{whole.hexdigest()}"


def little_endian_bytes(column: npt.NDArray[Any]) -> memoryview:
    """The values of `column` in C order as little-endian bytes; not copied where they are so already."""
    little = column.astype(column.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
