from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError, IntegrityError, NotFoundError
from ganglion.data import ArraySource, Field, open_dataset, prepare
from ganglion.data.columns import Columns
from ganglion.data.schema import Schema
from ganglion.data.source import PlainSource

IMAGES = np.random.default_rng(0).integers(0, 256, (103, 4, 5), np.uint8)
LABELS = np.arange(103, dtype=np.int64) * 7
SOURCE = ArraySource({"image": IMAGES, "label": LABELS})


class WrongSource(PlainSource, frozen=True, tag="tests:WrongSource"):
    """Yields other batches than its schema and count announce."""

    announced: int
    batches: list

    @property
    def schema(self) -> Schema:
        return (Field("x", "float32", (2,)),)

    @property
    def count(self) -> int:
        return self.announced

    def fingerprint(self) -> str:
        return "sha256:0"

    def scan(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        return iter(self.batches)


def stored(store: FolderStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("shards", [None, 1, 2, 7, 500])
@pytest.mark.parametrize("chunk_bytes", [1, 400])
def test_any_number_of_shards_holds_the_records_of_the_source(store, shards, chunk_bytes) -> None:
    dataset = open_dataset(prepare(SOURCE, store, shards=shards, chunk_bytes=chunk_bytes).artifact, store)
    assert dataset.count == 103
    assert dataset.schema == SOURCE.schema
    assert (dataset.slice(0, 103)["image"] == IMAGES).all()
    assert (dataset.slice(0, 103)["label"] == LABELS).all()
    sizes = dataset.manifest.shards
    assert len(sizes) == min(103, shards or 1)
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict:
    store = FolderStore(tmp_path_factory.mktemp("prepared"))
    return {shards: prepare(SOURCE, store, shards=shards) for shards in (1, 5)}


@given(records=st.lists(st.integers(0, 102), max_size=60), shards=st.sampled_from([1, 5]))
def test_take_gathers_in_the_order_asked_for_with_repetition(prepared, records: list[int], shards: int) -> None:
    found = prepared[shards].take(np.array(records, np.int64))
    assert found["image"].dtype == np.uint8
    assert (found["image"] == IMAGES[records]).all()
    assert found["label"].tolist() == [7 * record for record in records]
    found["image"][:] = 0  # its own memory: changing it does not change the dataset
    assert (prepared[shards].take(np.array(records, np.int64))["image"] == IMAGES[records]).all()


@given(ends=st.tuples(st.integers(0, 103), st.integers(0, 103)), shards=st.sampled_from([1, 5]))
def test_slice_is_the_range(prepared, ends: tuple[int, int], shards: int) -> None:
    start, stop = sorted(ends)
    found = prepared[shards].slice(start, stop)
    assert found["image"].shape == (stop - start, 4, 5)
    assert (found["label"] == LABELS[start:stop]).all()


@pytest.mark.parametrize("shards", [1, 5])
def test_what_is_not_in_the_dataset_is_refused(prepared, shards: int) -> None:
    for records in ([-1], [103], [0, 200]):
        with pytest.raises(DataError, match="the dataset has 0 to 102"):
            prepared[shards].take(np.array(records))
    with pytest.raises(DataError, match="there are 103"):
        prepared[shards].slice(100, 104)


def test_columns_are_mapped_read_only_from_the_store(prepared) -> None:
    view = prepared[1].slice(3, 9)["image"]
    assert not view.flags.writeable
    assert not view.flags.owndata


def test_the_identity_depends_on_content_and_shards_alone(tmp_path: Path) -> None:
    one, other = FolderStore(tmp_path / "one"), FolderStore(tmp_path / "other")
    digest = prepare(SOURCE, one, shards=3).artifact.digest
    again = ArraySource({"image": np.asfortranarray(IMAGES), "label": LABELS.astype(">i8")})
    assert prepare(again, other, shards=3, chunk_bytes=100).artifact.digest == digest
    assert prepare(SOURCE, one, shards=2).artifact.digest != digest
    changed = IMAGES.copy()
    changed[50, 0, 0] ^= 1
    assert prepare(ArraySource({"image": changed, "label": LABELS}), one, shards=3).artifact.digest != digest


def test_the_format_on_disk_never_changes(store) -> None:
    dataset = prepare(ArraySource({"x": np.arange(6, dtype=np.int16).reshape(3, 2)}), store, shards=2)
    files = store.tree(dataset.artifact)
    assert list(files) == ["00000/x.npy", "00001/x.npy", "manifest.json"]
    assert json.loads(store.read(files["manifest.json"])) == {
        "format": 1,
        "schema": [{"name": "x", "dtype": "int16", "shape": [2]}],
        "shards": [1, 2],
        "source": ArraySource({"x": np.arange(6, dtype=np.int16).reshape(3, 2)}).fingerprint(),
    }
    assert np.load(store.path(files["00001/x.npy"])).tolist() == [[2, 3], [4, 5]]
    assert dataset.artifact.kind == "dataset"
    assert dataset.artifact.digest == "sha256:30dbc8891125df234c30b425d468c4df55b532466095403d8df47b1cdcce01d7"


def test_everything_a_dataset_consists_of_is_reachable_from_its_artifact(store) -> None:
    dataset = prepare(SOURCE, store, shards=4)
    held = {digest for digest, _ in store.digests()}
    assert held == {dataset.artifact.digest, *store.references(dataset.artifact)}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (ArraySource({"x": np.empty((0, 3))}), "no records"),
        (ArraySource({"x": np.empty((3, 0))}), "x float64 0 hold no values"),
        (ArraySource({"../x": np.zeros(3)}), "named '../x'"),
        (WrongSource(2, [{"x": np.zeros((2, 2), np.float64)}]), "x float64 2.*its schema is x float32 2"),
        (WrongSource(2, [{"x": np.zeros((1, 2), np.float32)}, {"x": np.zeros((1, 3), np.float32)}]), "After record 1"),
        (WrongSource(2, [{"y": np.zeros((2, 2), np.float32)}]), "yields y float32 2"),
        (WrongSource(3, [{"x": np.zeros((2, 2), np.float32)}]), "announced 3 records and yields 2"),
        (WrongSource(3, [{"x": np.zeros((2, 2), np.float32)}] * 9), "announced 3 records and yields 4 or more"),
    ],
)
def test_a_source_that_cannot_be_prepared_is_refused_and_leaves_nothing(store, source, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        prepare(source, store)
    assert stored(store) == []


def test_a_damaged_source_leaves_nothing(store, write_idx) -> None:
    source = write_idx(IMAGES, (LABELS % 10).astype(np.uint8), compressed=True)
    Path(source.images).write_bytes(Path(source.images).read_bytes()[:-9])
    with pytest.raises(DataError, match="truncated"):
        prepare(source, store)
    assert stored(store) == []


def test_less_than_one_shard_is_refused(store) -> None:
    with pytest.raises(DataError, match="0 shards"):
        prepare(SOURCE, store, shards=0)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_shard_of_another_size_or_schema_is_refused_when_it_is_opened(store) -> None:
    artifact = prepare(SOURCE, store, shards=2).artifact
    path = store.path(store.tree(artifact)["00001/image.npy"])
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20], b"", whole + b"x", whole.replace(b"|u1", b"|i1"), b"\x80\x04" + whole[2:]):
        overwrite(path, data)
        with pytest.raises(DataError, match=r"00001/image\.npy of dataset"):
            open_dataset(artifact, store)
    overwrite(path, whole)
    open_dataset(artifact, store).verify()


def test_a_flipped_bit_is_found_by_verify(store) -> None:
    dataset = prepare(SOURCE, store)
    path = store.path(store.tree(dataset.artifact)["00000/label.npy"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    overwrite(path, bytes(data))
    with pytest.raises(IntegrityError, match=hashlib.sha256(data).hexdigest()):
        open_dataset(dataset.artifact, store).verify()


def test_an_artifact_that_is_no_dataset_is_refused(store, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tree = store.put_tree(tmp_path / "folder", "model")
    with pytest.raises(DataError, match=r"no manifest\.json"):
        open_dataset(tree, store)
    (tmp_path / "folder" / "manifest.json").write_text('{"format": 2, "schema": [], "shards": [], "source": ""}')
    with pytest.raises(DataError, match="format 2; this version reads format 1"):
        open_dataset(store.put_tree(tmp_path / "folder", "dataset"), store)
    (tmp_path / "folder" / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match=r"manifest\.json of dataset .* cannot be read"):
        open_dataset(store.put_tree(tmp_path / "folder", "dataset"), store)
    with pytest.raises(NotFoundError):
        open_dataset(tree, FolderStore(tmp_path / "elsewhere"))


MEASURE = """
import resource, sys
import numpy as np
from pathlib import Path
from ganglion.artifacts.store import FolderStore
from ganglion.data import IdxSource, prepare

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

images, labels, folder, chunk = sys.argv[1:]
before = peak()
prepare(IdxSource(images=images, labels=labels), FolderStore(Path(folder)), chunk_bytes=int(chunk))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_stays_bounded_while_a_larger_source_is_prepared(write_idx, tmp_path: Path) -> None:
    source = write_idx(np.zeros((100_000, 28, 28), np.uint8), np.zeros(100_000, np.uint8), compressed=True)
    command = [sys.executable, "-c", MEASURE, source.images, source.labels, str(tmp_path / "out"), str(2**20)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 48, f"{grown} MiB for 75 MiB of records"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(
    counts=st.integers(1, 40),
    shards=st.integers(1, 3),
    chunk=st.integers(1, 300),
    dtypes=st.lists(st.sampled_from(["bool", "uint8", "int16", "int64", "float32", "float64"]), min_size=1, max_size=3),
)
def test_values_of_any_type_come_back_as_they_went_in(store, counts, shards, chunk, dtypes) -> None:
    values = np.random.default_rng(counts).integers(0, 100, (counts, 2))
    columns = {f"c{n}": values.astype(dtype) for n, dtype in enumerate(dtypes)}
    dataset = prepare(ArraySource(columns), store, shards=shards, chunk_bytes=chunk)
    found = dataset.slice(0, counts)
    for name, column in columns.items():
        assert found[name].dtype == column.dtype
        assert (found[name] == column).all()
