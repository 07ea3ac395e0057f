"""Which records of a TFRecord file differ from their checksums, at the price of one checksum for many records.

A CRC is linear over GF(2), and bytes followed by their CRC are a codeword (W. W. Peterson, D. T. Brown, "Cyclic Codes
for Error Detection", Proceedings of the IRE 49, 1961): a register that begins with zeros and takes in codeword after
codeword holds zeros at the end. Records become such codewords by three small changes to a copy of them: the first four
bytes are inverted, which is what a register that begins with ones does; the stored checksum is unmasked and inverted,
which undoes its last step; and lengths, which are checked elsewhere, become zeros. So one pass over all of it says
whether any record is damaged; only then is each looked at by itself.

What one pass finds of what is damaged in the records it covers: any one or two flipped bits of records, as they are
within 2**31 - 1 bits of each other, any odd number of them, any burst of up to 32 bits (G. Castagnoli, S. Braeuer,
M. Herrmann, "Optimization of Cyclic Redundancy-Check Codes with 24 and 32 Parity Bits", IEEE Transactions on
Communications 41, 1993; P. Koopman, "32-Bit Cyclic Redundancy Codes for Internet Applications", Dependable Systems and
Networks 2002), and whatever happened to one stored checksum, which is such a burst. Of all other damage a share of
2**-32 passes, as it would with a checksum for each record.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

HEADER = 12
"""Bytes in front of a record: its length, and the checksum of that."""

CHECK = 4
"""Bytes of the checksum behind a record."""

AROUND = HEADER + CHECK
"""Bytes that a record takes besides its own."""

_MASK = 0xA282EAD8
_ONES = np.uint32(0xFFFFFFFF)
_ZERO_REGISTER = 0xFFFFFFFF  # `extend` inverts what it is given to go on from, and what it returns

_NOTHING = np.zeros((), f"V{HEADER}")

_TOGETHER = 2**20
"""Bytes, about, of which one checksum is taken; they and their copy stay in the processor's cache."""

_LARGE = 2**13
"""Bytes of a record from which on it is cheaper to take its own checksum than to copy it."""

_Numbers = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint32]


def mask(checksums: _Words) -> _Words:
    """CRC-32C as they are stored."""
    return (checksums >> np.uint32(15) | checksums << np.uint32(17)) + np.uint32(_MASK)


def mask_one(checksum: int) -> int:
    """One CRC-32C as it is stored."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


def damaged_records(data: bytes, starts: _Numbers, lengths: _Numbers) -> npt.NDArray[np.bool_]:
    """Compare records with the checksums that follow them.

    Args:
        data: in which each record lies between `HEADER` bytes and its checksum, and at once behind the one before.
        starts: where each record begins; shape `(records,)`.
        lengths: of the records in bytes; shape `(records,)`.

    Returns:
        Whether each record differs from its checksum; shape `(records,)`.
    """
    bad = np.zeros(len(starts), np.bool_)
    if not len(starts):
        return bad
    values = np.frombuffer(data, np.uint8)
    stops = starts + lengths
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(stops, starts[first] + _TOGETHER)))
        group = slice(first, last)
        large = stops[last - 1] - starts[first] > _LARGE * (last - first)
        if large or not _are_codewords(values, starts[group], stops[group]):
            bad[group] = _each(values, starts[group], stops[group])
        first = last
    return bad


def _are_codewords(values: _Bytes, starts: _Numbers, stops: _Numbers) -> bool:
    """Whether all of some records that follow each other match their checksums."""
    begin = int(starts[0]) - HEADER
    changed = values[begin : int(stops[-1]) + CHECK].copy()
    starts, stops = starts - begin, stops - begin
    size = int(stops[0] - starts[0])
    if len(changed) == len(starts) * (size + AROUND) and (stops - starts == size).all():
        rows = changed.reshape(len(starts), size + AROUND)  # equal lengths: slices of rows, which are faster
        words = _words_of(rows, size + HEADER)
        words[:] = _unmasked_and_inverted(words)
        rows[:, :HEADER] = 0
        words = _words_of(rows, HEADER)
        words ^= _ONES
    else:
        words = _at_each_byte(changed, "<u4")
        words[stops] = _unmasked_and_inverted(words[stops])
        _at_each_byte(changed, _NOTHING.dtype)[starts - HEADER] = _NOTHING
        words[starts] ^= _ONES  # last: of a record of fewer than four bytes, some of these are its checksum's
    return bool(google_crc32c.extend(_ZERO_REGISTER, changed) == _ZERO_REGISTER)


def _unmasked_and_inverted(stored: _Words) -> _Words:
    checks = stored - np.uint32(_MASK)
    return np.asarray(~(checks >> np.uint32(17) | checks << np.uint32(15)))


def _words_of(rows: _Bytes, place: int) -> _Words:
    """A view of the four bytes from `place` on of each row."""
    return np.ndarray((len(rows),), "<u4", rows, place, rows.strides[:1])


def _each(values: _Bytes, starts: _Numbers, stops: _Numbers) -> npt.NDArray[np.bool_]:
    """Whether each of some records differs from its checksum."""
    checks = [
        google_crc32c.extend(0, values[start:stop]) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    return np.asarray(mask(np.array(checks, np.uint32)) != _at_each_byte(values, "<u4")[stops])


def _at_each_byte(values: _Bytes, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A view of what there is of a kind at each byte; items overlap."""
    size = np.dtype(kind).itemsize
    return np.ndarray((max(0, len(values) - size + 1),), kind, values, 0, (1,))
