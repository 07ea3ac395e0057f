from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError, IntegrityError, NotFoundError
from ganglion.data import ArraySource, PreparedDataset, open_dataset, prepare
from ganglion.data.dataset.balance import divide
from ganglion.data.dataset.checksum import BLOCK, BlockChecksums, damaged_blocks
from ganglion.data.parts.dataset_part import DatasetPart
from ganglion.data.parts.part import whole

IMAGES = np.random.default_rng(0).integers(0, 256, (103, 4, 5), np.uint8)
LABELS = np.arange(103, dtype=np.int64) * 7
SOURCE = ArraySource({"image": IMAGES, "label": LABELS})
SEGMENTS = {1: None, 5: 28 * 21}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[int, PreparedDataset]:
    """The same records in one and in five segments."""
    store = FolderStore(tmp_path_factory.mktemp("prepared"))
    datasets = {count: prepare(SOURCE, store, segment_bytes=size) for count, size in SEGMENTS.items()}
    assert [len(dataset.segments) for dataset in datasets.values()] == list(SEGMENTS)
    return datasets


@given(records=st.lists(st.integers(0, 102), max_size=60), segments=st.sampled_from([1, 5]))
def test_take_gathers_in_the_order_asked_for_with_repetition(prepared, records: list[int], segments: int) -> None:
    found = prepared[segments].take(np.array(records, np.int64))
    assert found["image"].dtype == np.uint8
    assert (found["image"] == IMAGES[records]).all()
    assert found["label"].tolist() == [7 * record for record in records]
    found["image"][:] = 0  # its own memory: changing it does not change the dataset
    assert (prepared[segments].take(np.array(records, np.int64))["image"] == IMAGES[records]).all()
    assert prepared[segments].ids(np.array(records, np.int64)).tolist() == records


@given(ends=st.tuples(st.integers(0, 103), st.integers(0, 103)), segments=st.sampled_from([1, 5]))
def test_slice_is_the_range(prepared, ends: tuple[int, int], segments: int) -> None:
    start, stop = sorted(ends)
    found = prepared[segments].slice(start, stop)
    assert found["image"].shape == (stop - start, 4, 5)
    assert (found["label"] == LABELS[start:stop]).all()


@pytest.mark.parametrize("segments", [1, 5])
def test_what_is_not_in_the_dataset_is_refused(prepared, segments: int) -> None:
    for records in ([-1], [103], [0, 200]):
        with pytest.raises(DataError, match="there are 0 to 102"):
            prepared[segments].take(np.array(records))
    with pytest.raises(DataError, match="there are 103"):
        prepared[segments].slice(100, 104)


def test_columns_are_mapped_read_only_from_the_store(prepared) -> None:
    view = prepared[1].slice(3, 9)["image"]
    assert not view.flags.writeable
    assert not view.flags.owndata
    assert prepared[1].segments[0].arrays["image"].ctypes.data % 64 == 0


def test_the_identity_depends_on_records_and_segments_alone(tmp_path: Path) -> None:
    one, other = FolderStore(tmp_path / "one"), FolderStore(tmp_path / "other")
    digest = prepare(SOURCE, one, segment_bytes=1000).artifact.digest
    again = ArraySource({"image": np.asfortranarray(IMAGES), "label": LABELS.astype(">i8")})
    assert prepare(again, other, segment_bytes=1000, memory=100).artifact.digest == digest
    assert prepare(SOURCE, one, segment_bytes=999).artifact.digest != digest
    changed = IMAGES.copy()
    changed[50, 0, 0] ^= 1
    assert prepare(ArraySource({"image": changed, "label": LABELS}), one, segment_bytes=1000).artifact.digest != digest


# shards


def test_shards_hold_every_record_once(prepared) -> None:
    shards = prepared[5].shards([1.0, 2.0, 1.0])
    assert [shard.count for shard in shards] == [26, 51, 26]
    assert np.concatenate([shard.records() for shard in shards]).tolist() == list(range(103))
    assert shards == divide(103, [1.0, 2.0, 1.0])


@pytest.mark.parametrize("segments", [1, 5])
def test_equal_keys_go_to_the_same_shard_also_when_data_is_added(store: FolderStore, segments: int) -> None:
    users = np.arange(400) % 50
    size = None if segments == 1 else 8 * 80
    dataset = prepare(ArraySource({"user": users}), store, segment_bytes=size)
    larger = prepare(ArraySource({"user": np.concatenate([users, users])}), store, segment_bytes=size)
    shards, grown = dataset.shards_by_key("user", [1.0] * 4), larger.shards_by_key("user", [1.0] * 4)
    assert sorted(np.concatenate(shards).tolist()) == list(range(400))
    owner = {}
    for worker, records in enumerate(shards):
        owner.update(dict.fromkeys(users[records].tolist(), worker))
        assert (np.diff(records) > 0).all()
    assert sum(len(set(users[records].tolist())) for records in shards) == 50
    for worker, records in enumerate(grown):
        assert {owner[user] for user in (records % 400 % 50).tolist()} == {worker}


def test_an_unknown_key_is_refused(prepared) -> None:
    with pytest.raises(DataError, match=r"no column .lable..*Did you mean .label."):
        prepared[1].shards_by_key("lable", [1.0])
    with pytest.raises(DataError, match=r"uint8 of shape \(103, 4, 5\)"):
        prepared[1].shards_by_key("image", [1.0])


# damage


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_segment_of_another_size_is_refused_when_it_is_opened(store: FolderStore) -> None:
    dataset = prepare(SOURCE, store, segment_bytes=1400)
    path = store.path(dataset.manifest.segments[1].digest)
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20], b"", whole + b"x"):
        overwrite(path, data)
        with pytest.raises(DataError, match=r"000/00001\.arrow of dataset .* were written"):
            open_dataset(dataset.artifact, store)
    overwrite(path, whole)
    open_dataset(dataset.artifact, store).verify()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[PreparedDataset, FolderStore]:
    """Three segments of several blocks."""
    store = FolderStore(tmp_path_factory.mktemp("large"))
    values = np.random.default_rng(1).integers(0, 2**31, (30_000, 5))
    dataset = prepare(ArraySource({"x": values, "y": values[:, 0]}), store, segment_bytes=480_000)
    assert len(dataset.segments) == 3
    return dataset, store


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(data=st.data())
def test_every_flipped_bit_is_found_and_nothing_else(large, data) -> None:
    dataset, _ = large
    place = st.tuples(st.integers(0, 2), st.integers(0, 10**9), st.integers(0, 7))
    flips = data.draw(st.lists(place, max_size=5, unique_by=lambda flip: flip[:2]))
    wholes, expected = {}, set()
    try:
        for number, byte, bit in flips:
            segment = dataset.segments[number]
            path = segment.path
            wholes.setdefault(path, path.read_bytes())
            damaged = bytearray(path.read_bytes())
            byte %= len(damaged)
            damaged[byte] ^= 1 << bit
            overwrite(path, bytes(damaged))
        for path, whole in wholes.items():
            found = path.read_bytes()
            name = next(segment.segment.path for segment in dataset.segments if segment.path == path)
            expected |= {(name, at // BLOCK) for at in range(len(whole)) if whole[at] != found[at]}
        assert {(damage.path, damage.start // BLOCK) for damage in dataset.damage()} == expected
        if expected:
            with pytest.raises(IntegrityError, match=rf"damaged in {len(expected)} blocks: .*00\d\.arrow bytes"):
                dataset.verify()
        else:
            dataset.verify()
    finally:
        for path, whole in wholes.items():
            overwrite(path, whole)


def test_damage_names_the_columns_that_it_hits(large) -> None:
    dataset, _ = large
    segment = dataset.segments[0]
    whole = segment.path.read_bytes()
    (values,) = segment.segment.columns["y"]
    middle = values.offset + values.size // 2
    overwrite(segment.path, whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    try:
        (damage,) = dataset.damage()
        assert damage.start <= middle < damage.stop
        assert "y" in damage.columns
    finally:
        overwrite(segment.path, whole)


def test_damaged_checksums_and_manifests_are_found(store: FolderStore) -> None:
    dataset = prepare(SOURCE, store)
    for name in ("000/checksums.crc32c", "manifest.json"):
        path = store.path(dataset.files[name])
        whole = path.read_bytes()
        overwrite(path, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IntegrityError):
            dataset.verify()
        overwrite(path, whole)
    dataset.verify()


@given(data=st.binary(max_size=3 * BLOCK), cuts=st.lists(st.integers(0, 3 * BLOCK), max_size=4))
def test_checksums_do_not_depend_on_how_bytes_come(data: bytes, cuts: list[int]) -> None:
    whole, pieces = BlockChecksums(), BlockChecksums()
    whole.update(memoryview(data))
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(ends):
        pieces.update(memoryview(data)[start:stop])
    assert pieces.encoded() == whole.encoded()
    assert len(whole.encoded()) == 4 * -(-len(data) // BLOCK)


def test_a_checksum_is_crc32c(tmp_path: Path) -> None:
    checksums = BlockChecksums()
    checksums.update(memoryview(b"123456789"))
    assert checksums.encoded() == (0xE3069283).to_bytes(4, "little")  # the check value of CRC-32C
    (tmp_path / "file").write_bytes(b"123456789")
    assert list(damaged_blocks(tmp_path / "file", 9, checksums.encoded())) == []
    with pytest.raises(IntegrityError, match="9 bytes; 8 were written"):
        list(damaged_blocks(tmp_path / "file", 8, checksums.encoded()))


# opening


def test_an_artifact_that_is_no_dataset_is_refused(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tree = store.put_tree(tmp_path / "folder", "model")
    with pytest.raises(DataError, match=r"no manifest\.json"):
        open_dataset(tree, store)
    (tmp_path / "folder" / "manifest.json").write_text('{"format": 1, "schema": [], "shards": [], "source": ""}')
    with pytest.raises(DataError, match=r"format 1; this version reads format 2\. Prepare it again"):
        open_dataset(store.put_tree(tmp_path / "folder", "dataset"), store)
    (tmp_path / "folder" / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match=r"manifest\.json of dataset .* cannot be read"):
        open_dataset(store.put_tree(tmp_path / "folder", "dataset"), store)
    with pytest.raises(NotFoundError):
        open_dataset(tree, FolderStore(tmp_path / "elsewhere"))


OPEN = """
import sys
from pathlib import Path
from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data import open_dataset

dataset = open_dataset(Artifact(digest=sys.argv[2], kind="dataset", size=0), FolderStore(Path(sys.argv[1])))
import numpy as np
assert dataset.take(np.array([100, 3]))["label"].tolist() == [700, 21]
dataset.verify()
sys.exit("pyarrow" in sys.modules)
"""


def test_records_of_fixed_length_are_read_without_arrow(store: FolderStore) -> None:
    dataset = prepare(SOURCE, store, segment_bytes=1000)
    command = [sys.executable, "-c", OPEN, str(store.root), dataset.artifact.digest]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("segments", [1, 5])
def test_only_the_columns_that_are_asked_for_are_gathered(prepared, segments: int) -> None:
    dataset = prepared[segments]
    records = np.array([5, 3, 5])
    part = DatasetPart(dataset, whole(dataset.count))
    for found in (dataset.take(records, ["label"]), part.take(records, ["label"])):
        assert list(found) == ["label"]
        assert (found["label"] == dataset.take(records)["label"]).all()
    assert list(dataset.take(records, ["label", "image"])) == ["label", "image"]
    with pytest.raises(DataError, match="no column 'lable'"):
        part.take(records, ["lable"])
