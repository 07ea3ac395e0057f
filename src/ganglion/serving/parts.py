"""Which instances of a large request belong to which part: by range, by hash, or by a user's function; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Rows = slice | Indices
"""Instances of a request, in order: neighbours, or whichever."""

_WORD = 8


def range_parts(rows: int, parts: int) -> list[Rows]:
    """Neighbours together, in parts that differ by at most one instance; no part is empty."""
    parts = min(rows, parts)
    return [slice(rows * part // parts, rows * (part + 1) // parts) for part in range(parts)]


def grouped_parts(numbers: Indices) -> list[tuple[int, Rows]]:
    """The instances of each part that has any, in order, from the number of the part of each instance."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    return [(int(part), rows) for part, rows in zip(found, np.split(order, starts[1:]), strict=True)]


def hash_parts(columns: Iterable[NDArray[Any]], rows: int, parts: int) -> Indices:
    """The part of each instance: a hash of its bytes in some columns, modulo the number of parts.

    Equal values have equal hashes on every machine and in every process. The words of an instance are mixed one after
    the other by the finaliser of SplitMix64 (Steele, Lea, Flood 2014).

    Args:
        columns: arrays `[rows, ...]`.
        rows: number of instances.
        parts: number of parts.
    """
    hashes = np.zeros(rows, np.uint64)
    for column in columns:
        for word in _text_words(column) if column.dtype.kind == "O" else _words(column):
            hashes = _mix(hashes ^ word)
    return (hashes % np.uint64(parts)).astype(np.int64)


def bytes_parts(items: Iterable[bytes], parts: int) -> Indices:
    """As `hash_parts`, of encoded images."""
    digests = (hashlib.blake2b(item, digest_size=_WORD).digest() for item in items)
    return np.array([int.from_bytes(digest, "little") % parts for digest in digests], np.int64)


def _text_words(column: NDArray[Any]) -> Iterable[NDArray[np.uint64]]:
    """A digest of the texts of each instance, each behind its length."""
    rows = [
        b"".join([part for text in row for part in (len(text).to_bytes(_WORD, "little"), text.encode())])
        for row in column.reshape(len(column), -1).tolist()
    ]
    digests = (hashlib.blake2b(row, digest_size=_WORD).digest() for row in rows)
    yield np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def _words(column: NDArray[Any]) -> Iterable[NDArray[np.uint64]]:
    """The bytes of each instance, eight at a time, the last ones filled up with zeros."""
    flat = column.reshape(len(column), -1)
    per_word = max(1, _WORD // flat.dtype.itemsize)
    for start in range(0, flat.shape[1], per_word):
        values = np.ascontiguousarray(flat[:, start : start + per_word])
        if values.dtype.kind == "f":
            values = values + values.dtype.type(0)  # minus zero equals zero
        data = values.view(np.uint8)
        padded = np.zeros((len(data), _WORD), np.uint8)
        padded[:, : data.shape[1]] = data
        yield padded.view("<u8")[:, 0].astype(np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
