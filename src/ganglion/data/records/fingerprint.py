"""A digest of records that depends on their values alone, not on how they are stored or cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ganglion.data.records.columns import Column

if TYPE_CHECKING:
    import pyarrow as pa


def fingerprint_columns(header: bytes, names: Sequence[str], batches: Iterable[Mapping[str, Column]]) -> str:
    """Digest column batches.

    Args:
        header: what else belongs to the digest (the schema).
        names: the columns, in order.
        batches: arrays by column name; the digest is the same however the records are cut into batches.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    digests = [_Digest() for _ in names]
    for batch in batches:
        for name, digest in zip(names, digests, strict=True):
            digest.update(batch[name])
    whole = hashlib.sha256(header)
    for digest in digests:
        whole.update(digest.digest())
    return f"sha256:{whole.hexdigest()}"


class _Digest:
    """Of one column: its values, how long each is where that differs, and which are there at all."""

    def __init__(self) -> None:
        self._values, self._lengths, self._validity = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._numpy = True

    def update(self, column: Column) -> None:
        """Add records."""
        if isinstance(column, np.ndarray):
            self._values.update(little_endian_bytes(column))
        else:
            self._numpy = False
            self._add(column.dictionary_decode() if hasattr(column, "dictionary_decode") else column)

    def digest(self) -> bytes:
        """Of all that was added; of a NumPy column that of its values."""
        if self._numpy:
            return self._values.digest()
        return self._values.digest() + self._lengths.digest() + self._validity.digest()

    def _add(self, column: pa.Array) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._validity.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            self._lengths.update(_filled(pc.list_value_length(column).cast(pa.int64())))
            self._add(column.flatten())
        elif pa.types.is_fixed_size_list(column.type):
            self._add(column.flatten())
        elif pa.types.is_primitive(column.type):
            self._values.update(_filled(column))
        else:  # text and bytes
            whole = column.cast(pa.large_binary())
            self._lengths.update(_filled(pc.binary_length(whole)))
            self._values.update(b"".join(value.as_buffer() for value in whole.drop_null()))


def _filled(column: pa.Array) -> memoryview:
    """Numbers as bytes, with zeros where there is none."""
    import pyarrow as pa

    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    zero = pa.scalar(0).cast(column.type) if not pa.types.is_boolean(column.type) else pa.scalar(False)
    return little_endian_bytes(column.fill_null(zero).to_numpy(zero_copy_only=False))


def digest_of(data: bytes) -> str:
    """`sha256:` and the 64 hexadecimal digits of the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def little_endian_bytes(column: npt.NDArray[Any]) -> memoryview:
    """The values of `column` in C order as little-endian bytes; not copied where they are so already."""
    little = column.astype(column.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
