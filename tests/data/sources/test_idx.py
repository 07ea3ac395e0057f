from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data import Field, IdxSource

IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
LABELS = np.array([4, 3, 2, 1, 0], np.uint8)


def damage(path: str, change) -> None:
    """Rewrite a file, or the content of a compressed file, with `change` applied to its bytes."""
    file = Path(path)
    data = file.read_bytes()
    if path.endswith(".gz"):
        file.write_bytes(gzip.compress(change(gzip.decompress(data))))
    else:
        file.write_bytes(change(data))


def read_all(source: IdxSource) -> dict[str, np.ndarray]:
    return source.read(0, source.count)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_every_type_of_the_format_is_read_with_its_values(write_idx, dtype: str, compressed: bool) -> None:
    values = (np.arange(24).reshape(4, 3, 2) * 5 - 7).astype(dtype)
    source = write_idx(values, np.array([1, 0, 3, 2], np.int32), compressed=compressed)
    assert source.schema == (Field("image", dtype, (3, 2)), Field("label", "int64"))
    found = read_all(source)
    assert found["image"].dtype == np.dtype(dtype)
    assert found["image"].dtype.isnative
    assert (found["image"] == values).all()
    assert found["label"].dtype == np.int64
    assert found["label"].tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("compressed", [False, True])
def test_any_range_is_read_alone_or_in_passes_of_any_size(write_idx, compressed: bool) -> None:
    source = write_idx(IMAGES, LABELS, compressed=compressed)
    for start in range(6):
        for stop in range(start, 6):
            assert (source.read(start, stop)["image"] == IMAGES[start:stop]).all()
            for size in (1, 2, 7):
                batches = list(source.scan(size, start, stop))
                assert all(len(batch["label"]) <= size for batch in batches)
                assert [int(label) for batch in batches for label in batch["label"]] == LABELS[start:stop].tolist()
    with pytest.raises(DataError, match=r"Records 2 to 6 .* there are 5"):
        source.read(2, 6)


def test_the_fingerprint_is_of_the_content_not_of_the_file(write_idx) -> None:
    plain = write_idx(IMAGES, LABELS).fingerprint()
    assert write_idx(IMAGES, LABELS, compressed=True).fingerprint() == plain
    assert write_idx(IMAGES, LABELS[::-1]).fingerprint() != plain
    assert write_idx(IMAGES.reshape(5, 3, 2), LABELS).fingerprint() != plain


def test_a_changed_file_changes_the_fingerprint_of_the_same_source(write_idx) -> None:
    source = write_idx(IMAGES, LABELS)
    before = source.fingerprint()
    damage(source.images, lambda data: data[:-1] + b"\xff")
    assert source.fingerprint() != before


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: b"", r"at byte 0.*found 0 bytes"),
        (lambda data: b"PK" + data[2:], r"at byte 0.*expected two zero bytes, found 50 4b"),
        (lambda data: data[:2] + b"\x0a" + data[3:], r"at byte 2.*08 \(uint8\), 09 .*found 0a"),
        (lambda data: data[:3] + b"\0" + data[4:], r"at byte 3.*at least 1 dimension, found 0"),
        (lambda data: data[:10], r"at byte 4.*3 dimensions of 4 bytes \(12 bytes\), found 6 bytes"),
        (lambda data: data[:-1], r"5x2x3 values of uint8, 46 bytes in all.*found"),
        (lambda data: data + b"x", r"at byte 46.*expected the end of the file.*found"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], r"5x4294967295x4294967295 values.*found"),
    ],
)
def test_damage_is_refused_with_file_byte_and_what_was_expected(write_idx, compressed: bool, change, problem) -> None:
    source = write_idx(IMAGES, LABELS, compressed=compressed)
    damage(source.images, change)
    with pytest.raises(DataError, match=problem) as refusal:
        source.fingerprint()
    assert source.images in str(refusal.value)


@pytest.mark.parametrize(("change", "size"), [(lambda data: data[:-1], 12), (lambda data: data + b"x", 14)])
def test_a_plain_file_of_another_size_is_refused_before_a_record_is_read(write_idx, change, size: int) -> None:
    source = write_idx(IMAGES, LABELS)
    damage(source.labels, change)
    with pytest.raises(DataError, match=rf"labels.idx: at byte 13.*13 bytes in all.*found a file of {size} bytes"):
        source.read(0, 1)


def test_a_truncated_gzip_stream_is_refused(write_idx) -> None:
    source = write_idx(
        np.random.default_rng(0).integers(0, 255, (50, 9, 9), np.uint8), np.zeros(50, np.uint8), compressed=True
    )
    whole = Path(source.images).read_bytes()
    for length in (len(whole) // 2, len(whole) - 4):
        Path(source.images).write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"images.idx.gz: at byte \d+ of the decompressed content.*truncated"):
            source.fingerprint()


def test_a_gzip_stream_with_a_wrong_checksum_is_refused(write_idx) -> None:
    source = write_idx(IMAGES, LABELS, compressed=True)
    data = bytearray(Path(source.images).read_bytes())
    data[-6] ^= 1
    Path(source.images).write_bytes(data)
    with pytest.raises(DataError, match=r"intact gzip stream.*CRC"):
        source.fingerprint()


def test_different_counts_are_refused_with_both(write_idx) -> None:
    source = write_idx(IMAGES, LABELS[:4])
    with pytest.raises(DataError, match=r"images.idx holds 5 images but .*labels.idx holds 4 labels"):
        source.read(0, 1)


def test_exchanged_files_are_refused(write_idx) -> None:
    right = write_idx(IMAGES, LABELS)
    with pytest.raises(DataError, match=r"images.idx has 3 dimensions; .* Are images and labels exchanged"):
        IdxSource(images=right.labels, labels=right.images).read(0, 1)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.*No such file"):
        IdxSource(images=str(tmp_path / "absent"), labels="x").read(0, 1)
    with pytest.raises(DataError, match="Is a directory"):
        IdxSource(images=str(tmp_path), labels="x").read(0, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(at=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 200), compressed=st.booleans())
def test_no_damage_to_a_file_does_worse_than_a_data_error(write_idx, at, byte, cut, compressed) -> None:
    source = write_idx(IMAGES, LABELS, compressed=compressed)
    data = bytearray(Path(source.images).read_bytes())
    data[at % len(data)] = byte
    Path(source.images).write_bytes(data[: len(data) - cut % 20])
    with suppress(DataError):
        assert source.fingerprint().startswith("sha256:")
