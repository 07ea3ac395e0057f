from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.records.hashing import hash_values, mix_hashes, owners


def test_hashes_never_change() -> None:
    assert [hex(value) for value in hash_values(np.array([0, 1, -1]))] == [
        "0xe220a8397b1dcdaf",
        "0x910a2dec89025cc1",
        "0xe4d971771b652c20",
    ]
    assert [hex(value) for value in hash_values(pa.array(["a", "", "a"]))] == [
        "0x2f42665b399ef840",
        "0xb4b2797457a0a6e4",
        "0x2f42665b399ef840",
    ]


@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_equal_integers_have_equal_hashes_whatever_their_width(values: list[int]) -> None:
    assert (hash_values(np.array(values, np.int32)) == hash_values(np.array(values, np.int64))).all()


def test_equal_numbers_have_equal_hashes() -> None:
    values = np.array([0.0, -0.0, np.nan, -np.nan, 1.5], np.float32)
    one, other, nan, negative, last = hash_values(values).tolist()
    assert one == other
    assert nan == negative
    assert len({one, nan, last}) == 3
    assert hash_values(values.astype(np.float64)).tolist() == [one, other, nan, negative, last]


def test_text_and_its_bytes_have_equal_hashes() -> None:
    texts = ["x", "ü", ""]
    assert hash_values(pa.array(texts)).tolist() == hash_values(pa.array([text.encode() for text in texts])).tolist()


@pytest.mark.parametrize("column", [np.zeros((2, 2)), np.zeros(2, complex), pa.array([[1], [2]])])
def test_records_with_several_values_have_no_key(column) -> None:
    with pytest.raises(DataError, match="one number or text to a record"):
        hash_values(column)


@pytest.mark.parametrize("weights", [[1.0] * 8, [1.0, 2.0, 5.0]])
def test_owners_have_their_shares(weights: list[float]) -> None:
    counts = np.bincount(owners(hash_values(np.arange(200_000)), weights), minlength=len(weights))
    shares = np.array(weights) / sum(weights)
    assert np.abs(counts / 200_000 - shares).max() < 0.005  # more than 4 standard deviations


def test_with_another_worker_only_its_share_moves() -> None:
    hashes = hash_values(np.arange(100_000))
    before, after = owners(hashes, [1.0] * 4), owners(hashes, [1.0] * 5)
    assert set(after[before != after]) == {4}
    assert abs((before != after).mean() - 0.2) < 0.01
    heavier = owners(hashes, [1.0, 1.0, 1.0, 2.0])
    assert set(heavier[before != heavier]) == {3}


def test_mixing_loses_nothing() -> None:
    assert len(np.unique(mix_hashes(np.arange(100_000, dtype=np.uint64)))) == 100_000
