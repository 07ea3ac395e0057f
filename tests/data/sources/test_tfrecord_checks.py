from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.data.sources import tfrecord_checks
from ganglion.data.sources.crc32c import shifted
from ganglion.data.sources.tfrecord_checks import AROUND, CHECK, HEADER, damaged_records, mask_one
from ganglion.data.sources.tfrecord_frames import frame

Places = tuple[np.ndarray, np.ndarray]


def places(records: list[bytes]) -> Places:
    """Where records begin that lie in a row, and their lengths."""
    lengths = np.array([len(record) for record in records], np.int64)
    return np.cumsum(lengths + AROUND) - lengths - CHECK, lengths


def damaged(lying: bytearray, starts: np.ndarray, lengths: np.ndarray) -> list[bool]:
    """What is found, after which everything has to lie there as it did."""
    before = bytes(lying)
    found = damaged_records(np.frombuffer(lying, np.uint8), starts, lengths)
    assert lying == before
    return found.tolist()


def one_by_one(data: bytes, starts: np.ndarray, lengths: np.ndarray) -> list[bool]:
    """The definition: what is stored is not the masked checksum of the record."""
    found = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        stored = int.from_bytes(data[start + length : start + length + CHECK], "little")
        found.append(mask_one(google_crc32c.value(data[start : start + length])) != stored)
    return found


equal = st.tuples(st.integers(0, 40), st.integers(1, 60)).flatmap(
    lambda kind: st.lists(st.binary(min_size=kind[0], max_size=kind[0]), min_size=kind[1], max_size=kind[1])
)
mixed = st.lists(st.binary(max_size=40), min_size=1, max_size=60)


@pytest.fixture(params=[(1, 1), (100, 2), (2**22, 16)], ids=lambda size: f"{size[0]} bytes together")
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord_checks, "_TOGETHER", request.param[0])
    monkeypatch.setattr(tfrecord_checks, "_FEW", request.param[1])


@pytest.mark.usefixtures("together")
@settings(max_examples=150, deadline=None)
@given(st.one_of(equal, mixed), st.data())
def test_each_damaged_record_is_found_and_no_other(records: list[bytes], data: st.DataObject) -> None:
    starts, lengths = places(records)
    lying = bytearray(b"".join(map(frame, records)))
    assert not any(damaged(lying, starts, lengths))
    for number in data.draw(st.sets(st.integers(0, len(records) - 1), min_size=1)):
        first, size = int(starts[number]), int(lengths[number]) + CHECK
        for bit in data.draw(st.sets(st.integers(0, 8 * size - 1), min_size=1, max_size=5)):
            lying[first + bit // 8] ^= 1 << bit % 8
    found = damaged(lying, starts, lengths)
    assert found == one_by_one(bytes(lying), starts, lengths)
    assert any(found)


def test_any_one_or_two_flipped_bits_of_records_and_any_checksum_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord_checks, "_FEW", 1)
    records = [bytes([number]) * size for number, size in enumerate((3, 0, 1, 9, 9, 4))]
    starts, lengths = places(records)
    intact = b"".join(map(frame, records))
    bits = [8 * (start + at) for start, size in zip(starts, lengths, strict=True) for at in range(size)]
    bits = [first + bit for first in bits for bit in range(8)]
    for one in bits:
        for two in bits:
            lying = bytearray(intact)
            lying[one // 8] ^= 1 << one % 8
            if two != one:
                lying[two // 8] ^= 1 << two % 8
            hit = [
                any(start <= bit // 8 < start + size for bit in (one, two))
                for start, size in zip(*places(records), strict=True)
            ]
            assert damaged(lying, starts, lengths) == hit
    for number, stop in enumerate((starts + lengths).tolist()):
        for value in (0, 2**31, 2**32 - 1):
            lying = bytearray(intact)
            lying[stop : stop + CHECK] = value.to_bytes(CHECK, "little")
            assert np.flatnonzero(damaged(lying, starts, lengths)).tolist() == [number]


def test_large_records_are_compared_one_by_one_and_small_ones_between_them_too() -> None:
    records = [bytes(range(256)) * size for size in (0, 1, 300, *range(100), 256, 5000, 0, 2, 255)]
    starts, lengths = places(records)
    lying = bytearray(b"".join(map(frame, records)))
    assert not any(damaged(lying, starts, lengths))
    hit = [1, 2, 50, 103, 104, 107]
    for number in hit:
        lying[int(starts[number]) + 100] ^= 4
    assert np.flatnonzero(damaged(lying, starts, lengths)).tolist() == hit


def test_intact_records_need_no_checksum_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    extend = google_crc32c.extend
    monkeypatch.setattr(google_crc32c, "extend", lambda crc, data: asked.append(len(data)) or extend(crc, data))
    records = [bytes([number % 251]) * (number % 50) for number in range(2000)]
    starts, lengths = places(records)
    lying = bytearray(b"".join(map(frame, records)))
    assert not any(damaged(lying, starts, lengths))
    assert asked == [len(lying)]
    lying[int(starts[70])] ^= 1
    assert np.flatnonzero(damaged(lying, starts, lengths)).tolist() == [70]
    assert len(asked) == 2 + len(records)


def test_nothing_is_not_damaged() -> None:
    none = np.zeros(0, np.int64)
    assert damaged_records(np.zeros(0, np.uint8), none, none).shape == (0,)
    assert HEADER + CHECK == AROUND


@given(st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 2**16 - 1)), max_size=20))
def test_registers_after_zeros_are_those_that_the_zeros_leave(messages: list[tuple[bytes, int]]) -> None:
    registers = np.array([google_crc32c.value(message) ^ 0xFFFFFFFF for message, _zeros in messages], np.uint32)
    found = shifted(registers, np.array([zeros for _message, zeros in messages], np.int64))
    assert found.tolist() == [google_crc32c.value(message + bytes(zeros)) ^ 0xFFFFFFFF for message, zeros in messages]
