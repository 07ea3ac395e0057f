"""TFRecord framing: records of bytes, each between a checked length and a checksum of its own.

The format (TensorFlow, "TFRecord and tf.train.Example", section *TFRecords format details*), all little-endian: the
length of the record (8 bytes), the masked CRC-32C of these bytes (4), the record, its masked CRC-32C (4). A checksum
is masked by rotating it right by 15 bits and adding a constant.

Where a length is broken, the next record is found by its checksum: eight bytes that are a length, and four that match
them. If the broken record matches its own checksum up to there, that is where it ended; so the search is not misled by
records that contain records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt

from ganglion.data.sources.crc32c import checksums_of_windows
from ganglion.data.sources.tfrecord_checks import AROUND, damaged_records, mask, mask_one

_LENGTH = struct.Struct("<QI")
_CHECK = struct.Struct("<I")

_ALIKE = 8
"""Records of one length in a row after which as many as there are of that length are looked for at once."""

_LOOKAHEAD = 2**22
"""Bytes behind a broken length that are searched for the end of its record before the first one that follows counts."""

_NEAR = 2**14
"""Bytes behind a broken length in which each is tried as the end of its record."""

_PIECE = 2**23
"""Bytes for which there is room before the file has shown that it has so many."""

_KEPT = 2**20
"""Bytes of a damaged stretch that are kept."""

_KNOWN = 2**16
"""Lengths whose checksums are remembered."""

_Numbers = npt.NDArray[np.int64]


def frame(record: bytes) -> bytes:
    """One record as it lies in a file, with its length and its checksums."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _CHECK.pack(_checksum(length)), record, _CHECK.pack(_checksum(record))))


@dataclass(frozen=True, slots=True)
class Damage:
    """A record, or a stretch in which records cannot be told apart, that does not match its checksums.

    Attributes:
        number: among the records of the file, good and bad, from 0; a stretch counts as one.
        offset: of its first byte in the file, which is the first one of its length.
        size: bytes up to the next record.
        reason: what is wrong.
        payload: the bytes behind the length; at most 1 MiB of them.
    """

    number: int
    offset: int
    size: int
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Frames:
    """Some intact records as they lie in memory, and the damages found between them.

    Attributes:
        data: the bytes that the records are part of, which nobody changes any more.
        starts: where each record begins in `data`; shape `(records,)`.
        lengths: of the records in bytes; shape `(records,)`.
        numbers: of the records in the file, damaged ones counted; shape `(records,)`.
        offsets: of their lengths in the file; shape `(records,)`.
        damages: in the order of the file.
    """

    data: memoryview
    starts: _Numbers
    lengths: _Numbers
    numbers: _Numbers
    offsets: _Numbers
    damages: tuple[Damage, ...]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[bytes]:
        return map(self.record, range(len(self)))

    def record(self, number: int) -> bytes:
        """A copy of one record, by its place among these."""
        start = int(self.starts[number])
        return bytes(self.data[start : start + int(self.lengths[number])])


class Stretch:
    """Records that lie one behind the other, whose checksums are compared by whoever has the time for it."""

    def __init__(self, data: memoryview, frames: Frames, unchecked: int) -> None:
        """Take over what was found.

        Args:
            data: what `frames` lies in; nobody else looks at the records there before they are checked.
            frames: the records.
            unchecked: how many of them, from the first on, are still to be compared.
        """
        self._data = data
        self._frames = frames
        self._unchecked = unchecked

    def check(self) -> None:
        """Compare records with their checksums, unless that was done."""
        if not self._unchecked:
            return
        first = slice(self._unchecked)
        self._unchecked = 0
        frames = self._frames
        bad = np.zeros(len(frames), np.bool_)
        bad[first] = damaged_records(np.frombuffer(self._data, np.uint8), frames.starts[first], frames.lengths[first])
        if bad.any():
            self._frames = _without(frames, bad)

    def frames(self) -> Frames:
        """The intact records, and what is damaged."""
        self.check()
        return self._frames


def _without(frames: Frames, bad: npt.NDArray[np.bool_]) -> Frames:
    """The records that are not bad, and the others as damage."""
    damages = tuple(
        Damage(
            int(frames.numbers[at]),
            int(frames.offsets[at]),
            int(frames.lengths[at]) + AROUND,
            "the record does not match its checksum",
            bytes(frames.data[frames.starts[at] : frames.starts[at] + min(_KEPT, frames.lengths[at])]),
        )
        for at in np.flatnonzero(bad).tolist()
    )
    good = ~bad
    places = (frames.starts[good], frames.lengths[good], frames.numbers[good], frames.offsets[good])
    return Frames(frames.data, *places, damages)


def read_frames(stream: BinaryIO, size: int) -> Iterator[Frames]:
    """The records of a file, compared with their checksums, and what is damaged in it; as `read_stretches`."""
    return (stretch.frames() for stretch in read_stretches(stream, size))


def read_stretches(stream: BinaryIO, size: int, *, verify: bool = True) -> Iterator[Stretch]:
    """The records of a file, and what is damaged in it.

    Every intact record before, between and behind damaged ones is found, in order. A record whose length is broken is
    damaged even where its own bytes are not.

    Args:
        stream: at the beginning of the first record.
        size: bytes that are held at a time; more where one record is longer, or where the end of one is searched for.
        verify: whether checksums of records are compared; those of lengths always are.
    """
    reader = _Reader(stream, verify)
    while (stretch := reader.next(size)) is not None:
        yield stretch


def write_frames(stream: BinaryIO, records: Iterable[bytes]) -> int:
    """Write records, one behind the other, and return how many there were."""
    count = 0
    for record in records:
        stream.write(frame(record))
        count += 1
    return count


@dataclass(slots=True)
class _Chain:
    """Records that follow each other from the beginning of what is in memory.

    Attributes:
        starts: of the records; shape `(records,)`.
        lengths: of the records; shape `(records,)`.
        unchecked: how many of them, from the first on, may differ from their checksums.
        stop: where the last one ends.
        needed: bytes that have to be in memory for more to be told; 0 where the length behind the last one is broken.
    """

    starts: _Numbers
    lengths: _Numbers
    unchecked: int
    stop: int
    needed: int


class _Reader:
    """A position in a file, and the bytes behind it that are in memory."""

    def __init__(self, stream: BinaryIO, verify: bool) -> None:
        self._stream = stream
        self._verify = verify
        self._data = memoryview(bytearray())  # writable, and never moved
        self._offset = 0
        self._number = 0
        self._ended = False
        self._known: dict[int, int] = {}

    def next(self, size: int) -> Stretch | None:
        """The records within about the next `size` bytes, or damage; None at the end of the file."""
        wanted = size
        while True:
            self._fill(wanted)
            if not self._data:
                return None
            chain = self._chain()
            if len(chain.starts):
                return self._records(chain)
            if chain.needed <= len(self._data) or self._ended:
                return self._damaged()
            wanted = chain.needed

    def _fill(self, size: int) -> None:
        """Have so many bytes in memory, if there are."""
        while (filled := len(self._data)) < size and not self._ended:
            room = min(size, max(_PIECE, 2 * filled))
            buffer = memoryview(np.empty(room, np.uint8))  # type: ignore[arg-type]  # an array has the buffer protocol
            buffer[:filled] = self._data
            while filled < room and not self._ended:
                read = self._stream.readinto(buffer[filled:])  # type: ignore[attr-defined]  # of any buffered file
                self._ended = not read
                filled += read
            self._data = buffer[:filled]

    def _chain(self) -> _Chain:
        data, end = self._data, len(self._data)
        unpack, known = _LENGTH.unpack_from, self._known
        places: list[_Numbers] = []
        some: list[int] = []  # places that are not yet in `places`
        at = confirmed = needed = alike = 0
        last = -1
        while True:
            if at + _LENGTH.size > end:
                needed = at + _LENGTH.size
                break
            length, check = unpack(data, at)
            if known.get(length) != check and not self._is_length(length, check):
                break
            confirmed = at  # what lies in front ends where it says
            step = length + AROUND
            if at + step > end:
                needed = at + step
                break
            alike = alike + 1 if length == last else 0
            last = length
            if alike == _ALIKE:
                alike = 0
                run = at + step * np.arange(self._alike(at, step))
                places += [np.array(some, np.int64), run]
                some = []
                confirmed = int(run[-1])
                at = confirmed + step
            else:
                some.append(at)
                at += step
        if at == end and self._ended:
            confirmed = end
        starts = np.concatenate([*places, np.array(some, np.int64)]) + _LENGTH.size
        lengths = np.diff(starts, append=at + _LENGTH.size) - AROUND
        chain = _Chain(starts, lengths, len(starts) if self._verify else 0, at, needed)
        if chain.unchecked and confirmed != at:  # bytes may be missing from the last one; its end cannot be trusted
            chain.unchecked -= 1
            if damaged_records(np.frombuffer(data, np.uint8), starts[-1:], lengths[-1:])[0]:
                chain.stop = int(starts[-1]) - _LENGTH.size
                chain.starts, chain.lengths = starts[:-1], lengths[:-1]
                chain.needed = needed and at + _LENGTH.size
        return chain

    def _alike(self, at: int, step: int) -> int:
        """How many records in a row, from the one at `at` on, have its length; they are whole."""
        rows = (len(self._data) - at) // step
        lengths = np.ndarray((rows,), "<u8", self._data, at, (step,))
        checks = np.ndarray((rows,), "<u4", self._data, at + lengths.itemsize, (step,))
        other = (lengths != lengths[0]) | (checks != checks[0])
        return int(other.argmax()) if other.any() else rows

    def _is_length(self, length: int, check: int) -> bool:
        right = _checksum(struct.pack("<Q", length))
        if len(self._known) == _KNOWN:
            self._known.clear()
        self._known[length] = right
        return right == check

    def _records(self, chain: _Chain) -> Stretch:
        data, starts = self._data, chain.starts
        numbers = self._number + np.arange(len(starts))
        offsets = starts + (self._offset - _LENGTH.size)
        self._advance(chain.stop, len(starts))
        return Stretch(data, Frames(data.toreadonly(), starts, chain.lengths, numbers, offsets, ()), chain.unchecked)

    def _damaged(self) -> Stretch:
        """What is to be said of the record at the beginning of what is in memory, which cannot be read."""
        length, check = _LENGTH.unpack_from(self._data) if len(self._data) >= _LENGTH.size else (0, 0)
        stop = length + AROUND
        if self._known.get(length) != check:
            whole = len(self._data) >= _LENGTH.size
            return self._lost("the length does not match its checksum" if whole else "the file ends within a length")
        if stop > len(self._data):
            return self._lost(f"the file ends within the record, which has {length} bytes")
        if self._end_of(stop) is not None:  # the length behind it is broken, and the record of that is not
            return self._lost("the record does not match its checksum", stop)
        return self._lost("the record does not match its checksum, and no record follows where it should end")

    def _lost(self, reason: str, stop: int | None = None) -> Stretch:
        """Damage from here to `stop`, else to the next record that can be found."""
        offset, skipped, none = self._offset, 0, np.zeros(0, np.int64)
        if stop is None:
            stop = self._end_of(0)
        if stop is None:
            stop = self._next_length(1)
            stop = self._end_before(stop) or stop
        payload = bytes(self._data[_LENGTH.size : _LENGTH.size + _KEPT])
        while stop is None:  # too far away: forget what has been searched
            passed = max(0, len(self._data) - _LENGTH.size)
            skipped += passed
            self._advance(passed, 0)
            if self._ended:
                stop = len(self._data)
            else:
                self._fill(_LOOKAHEAD)
                stop = self._next_length(1)
        self._advance(stop, 1)
        size = skipped + stop
        payload = payload[: max(0, size - _LENGTH.size)]
        damage = Damage(self._number - 1, offset, size, reason, payload)
        nothing = memoryview(b"")
        return Stretch(nothing, Frames(nothing, none, none, none, none, (damage,)), 0)

    def _end_of(self, at: int) -> int | None:
        """Where the record ends whose broken length is at `at`: where it matches its checksum and another follows."""
        self._fill(at + _LOOKAHEAD)
        data, done = np.frombuffer(self._data, np.uint8), at + _LENGTH.size
        ends = self._lengths_behind(done + _CHECK.size)
        checksum = 0
        for end in [*ends, len(data)] if self._ended else ends:
            stop = end - _CHECK.size
            if stop < done:
                continue
            checksum = google_crc32c.extend(checksum, data[done:stop])
            done = stop
            if mask_one(checksum) == _CHECK.unpack_from(self._data, stop)[0]:
                return end
        return None

    def _end_before(self, stop: int | None) -> int | None:
        """Where the first record matches its checksum, in front of `stop`: the length behind it is broken, too."""
        at, checksum = _LENGTH.size, 0
        for end in range(at, min(stop or len(self._data), at + _NEAR) - _CHECK.size):
            if mask_one(checksum) == _CHECK.unpack_from(self._data, end)[0]:
                return end + _CHECK.size
            checksum = google_crc32c.extend(checksum, bytes(self._data[end : end + 1]))
        return None

    def _next_length(self, at: int) -> int | None:
        self._fill(_LOOKAHEAD)
        return next(iter(self._lengths_behind(at)), None)

    def _lengths_behind(self, at: int) -> list[int]:
        """Positions in memory, from `at` on, of eight bytes that are a length and are followed by their checksum."""
        data = np.frombuffer(self._data, np.uint8)
        windows = len(data) - _LENGTH.size + 1
        if windows <= at:
            return []
        # No record has 2**40 bytes, so the last three are zero; this leaves few to be computed.
        high = data[at + 5 : windows + 5] | data[at + 6 : windows + 6] | data[at + 7 : windows + 7]
        places = np.flatnonzero(high == 0) + at
        stored = np.zeros(len(places), np.uint32)
        for byte in range(_CHECK.size):
            stored |= data[places + (8 + byte)].astype(np.uint32) << np.uint32(8 * byte)
        found: list[int] = places[mask(checksums_of_windows(data, places)) == stored].tolist()
        return found

    def _advance(self, size: int, records: int) -> None:
        self._data = self._data[size:]
        self._offset += size
        self._number += records


def _checksum(data: bytes) -> int:
    return mask_one(google_crc32c.value(data))
