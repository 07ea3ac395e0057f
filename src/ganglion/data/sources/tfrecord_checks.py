"""Which records of a TFRecord file differ from their checksums, at the price of one checksum for many records.

A CRC is linear over GF(2), and bytes followed by their CRC are a codeword (W. W. Peterson, D. T. Brown, "Cyclic Codes
for Error Detection", Proceedings of the IRE 49, 1961): a register that begins with zeros and takes in codeword after
codeword holds zeros at the end. A record with its header in front becomes one where only the four bytes behind it are
changed: the stored checksum is unmasked and inverted, and what the header and a register that begins with ones would
leave in the register by then is added, which depends on the length alone. So checksums are exchanged where they lie,
one pass over everything says whether any record is damaged, and they are put back; only where one is damaged is each
record looked at by itself.

What one pass finds of what is damaged in the records it covers: any one or two flipped bits of records, as they are
within 2**31 - 1 bits of each other, any odd number of them, any burst of up to 32 bits (G. Castagnoli, S. Braeuer,
M. Herrmann, "Optimization of Cyclic Redundancy-Check Codes with 24 and 32 Parity Bits", IEEE Transactions on
Communications 41, 1993; P. Koopman, "32-Bit Cyclic Redundancy Codes for Internet Applications", Dependable Systems and
Networks 2002), and whatever happened to one stored checksum, which is such a burst. Of all other damage a share of
2**-32 passes, as it would with a checksum for each record.
"""

from __future__ import annotations

from functools import lru_cache

import google_crc32c
import numpy as np
import numpy.typing as npt

from ganglion.data.sources.crc32c import checksums_of_windows, shifted

HEADER = 12
"""Bytes in front of a record: its length, and the checksum of that."""

CHECK = 4
"""Bytes of the checksum behind a record."""

AROUND = HEADER + CHECK
"""Bytes that a record takes besides its own."""

_MASK = 0xA282EAD8
_ONES = np.uint32(0xFFFFFFFF)
_ZERO_REGISTER = 0xFFFFFFFF  # `extend` inverts what it is given to go on from, and what it returns

_TOGETHER = 2**22
"""Bytes, about, of which one checksum is taken; where it differs, so many are looked at record by record."""

_LARGE = 2**16
"""Bytes of a record from which on its own checksum is taken."""

_FEW = 16
"""Records for which it is not worth it to exchange checksums."""

_Numbers = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint32]


def mask(checksums: _Words) -> _Words:
    """CRC-32C as they are stored."""
    return (checksums >> np.uint32(15) | checksums << np.uint32(17)) + np.uint32(_MASK)


def mask_one(checksum: int) -> int:
    """One CRC-32C as it is stored."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


def damaged_records(values: _Bytes, starts: _Numbers, lengths: _Numbers) -> npt.NDArray[np.bool_]:
    """Compare records with the checksums that follow them.

    Args:
        values: in which each record lies between its header, which is right, and its checksum, and at once behind the
            one before; shape `(bytes,)`. Checksums are changed meanwhile and are afterwards what they were.
        starts: where each record begins; shape `(records,)`.
        lengths: of the records in bytes; shape `(records,)`.

    Returns:
        Whether each record differs from its checksum; shape `(records,)`.
    """
    bad = np.zeros(len(starts), np.bool_)
    stops = starts + lengths
    large = np.flatnonzero(lengths >= _LARGE)
    bad[large] = _each(values, starts[large], stops[large])
    first = 0
    for end in [*large.tolist(), len(starts)]:
        while first < end:
            last = max(first + 1, int(np.searchsorted(stops[:end], starts[first] + _TOGETHER)))
            group = slice(first, last)
            if last - first < _FEW or not _are_codewords(values, starts[group], stops[group]):
                bad[group] = _each(values, starts[group], stops[group])
            first = last
        first = end + 1
    return bad


def _are_codewords(values: _Bytes, starts: _Numbers, stops: _Numbers) -> bool:
    """Whether all of some records that follow each other, none of them large, match their checksums."""
    begin, end, size = int(starts[0]) - HEADER, int(stops[-1]) + CHECK, int(stops[0] - starts[0])
    lengths = stops - starts
    if end - begin == len(starts) * (size + AROUND) and (lengths == size).all():
        # Of equal lengths: a view of checksums, which is faster than their places.
        words = np.ndarray((len(starts),), "<u4", values, begin + HEADER + size, (size + AROUND,))
        places: slice | _Numbers = slice(None)
        added: np.uint32 | _Words = _left_behind(size.bit_length())[size]
    else:
        words, places = _at_each_byte(values), stops
        added = _left_behind(int(lengths.max()).bit_length())[lengths]
    stored = words[places].copy()
    checks = stored - np.uint32(_MASK)
    high = checks >> np.uint32(17)
    checks <<= np.uint32(15)  # in place: fresh memory costs more than what is done with it
    checks |= high
    checks ^= added
    try:
        words[places] = checks
        return bool(google_crc32c.extend(_ZERO_REGISTER, values[begin:end]) == _ZERO_REGISTER)
    finally:
        words[places] = stored


@lru_cache
def _left_behind(bits: int) -> _Words:
    """What is to be added to checksums for codewords, by the length of the record; shape `(2**bits,)`.

    That is what a register that begins with zeros holds after the header and so many zeros, and what one that begins
    with ones holds after these zeros, inverted as checksums are.
    """
    lengths = np.arange(2**bits, dtype="<u8")
    checksums = checksums_of_windows(lengths.view(np.uint8), np.arange(0, 8 << bits, 8))
    from_zeros = ~checksums ^ shifted(np.array([_ONES]), np.array([8]))
    after_header = shifted(from_zeros ^ mask(checksums), np.full(len(lengths), 4))
    return np.asarray(~shifted(after_header ^ _ONES, lengths.astype(np.int64)))


def _each(values: _Bytes, starts: _Numbers, stops: _Numbers) -> npt.NDArray[np.bool_]:
    """Whether each of some records differs from its checksum."""
    checks = [
        google_crc32c.extend(0, values[start:stop]) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    return np.asarray(mask(np.array(checks, np.uint32)) != _at_each_byte(values)[stops])


def _at_each_byte(values: _Bytes) -> _Words:
    """A view of the word at each byte; words overlap."""
    return np.ndarray((max(0, len(values) - 3),), "<u4", values, 0, (1,))
