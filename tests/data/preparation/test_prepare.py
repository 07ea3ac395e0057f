from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts_source import PartsSource, write_part

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.core.registry import load_object
from ganglion.data import ArraySource, Field, PreparedDataset, Progress, limit, open_dataset, prepare
from ganglion.data.dataset.manifest import MANIFEST
from ganglion.data.preparation import advance
from ganglion.data.preparation.staging import kept
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import RECORDS, Unit


class ScriptedSource:
    """Yields, for each of its units, the batches that it was given; it is no plain data."""

    def __init__(self, schema: Schema, units: list[list[Batch | BadRecord]], **unit: Any) -> None:
        self.schema = schema
        self._scripts = units
        self._units = [Unit(number=number, name=f"unit {number}", **unit) for number in range(len(units))]

    def units(self) -> Sequence[Unit]:
        return self._units

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        for item in self._scripts[unit.number]:
            if isinstance(item, BadRecord):
                set_aside(item)
            else:
                yield item

    def fingerprint(self) -> str:
        return "scripted"


X = (Field("x", "float32", (2,)),)


def xs(*ids: int) -> Batch:
    return Batch({"x": np.array([[record, -record] for record in ids], np.float32)}, np.array(ids, np.int64))


def here(entry: str, arguments: dict[str, Any]) -> Any:
    """Carry an entry out in this process, on plain data alone."""
    value = load_object(entry)(**msgspec.msgpack.decode(msgspec.msgpack.encode(arguments)))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def numbers(dataset: PreparedDataset) -> list[int]:
    return dataset.slice(0, dataset.count)["x"].tolist()


def test_every_record_comes_back_with_its_id_and_is_accounted_for(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store, segment_bytes=200)
    assert dataset.count == 75
    assert len(dataset.segments) > 5
    columns = dataset.slice(0, 75)
    assert columns["x"].tolist() == list(range(75))
    assert columns["pair"].tolist() == [[x, -x] for x in range(75)]
    assert columns["name"].to_pylist() == [f"n{x}" for x in range(75)]
    expected = [unit * RECORDS + record for unit in range(10) for record in range(3 + unit)]
    assert dataset.ids(np.arange(75)).tolist() == expected
    accounts = dataset.manifest.accounts
    assert [
        (account.unit, account.read, account.written, account.set_aside, account.left_out) for account in accounts
    ] == [(unit, 3 + unit, 3 + unit, 0, 0) for unit in range(10)]
    assert [account.fingerprint for account in accounts] == [unit.fingerprint for unit in parts.units()]


def test_the_manifest_says_what_the_files_hold(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store, segment_bytes=300)
    for segment in dataset.manifest.segments:
        path = store.path(segment.digest)
        assert path.stat().st_size == segment.size
        with pa.memory_map(str(path)) as file:
            read = pa.ipc.open_file(file)
            assert read.num_record_batches == 1
            batch = read.get_batch(0)
            batch.validate(full=True)
            ids = batch["ganglion.id"].to_pylist()
        assert batch.num_rows == segment.records
        assert (min(ids), max(ids)) == segment.ids
        assert ids == dataset.ids(np.array(batch["x"].to_pylist())).tolist()
    assert dataset.manifest.origins[0].description["type"] == "parts_source:PartsSource"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=6)
@given(memory=st.integers(1, 10_000), workers=st.integers(1, 4))
def test_memory_and_workers_do_not_change_the_dataset(parts, tmp_path_factory, memory: int, workers: int) -> None:
    folder = tmp_path_factory.mktemp("stores")
    digest = prepare(parts, FolderStore(folder / "one"), segment_bytes=250).artifact.digest
    other = FolderStore(folder / "other")
    found = prepare(parts, other, segment_bytes=250, memory=memory, workers=workers, run=here)
    assert found.artifact.digest == digest


def test_a_segment_ends_before_it_gets_too_large_and_a_large_record_has_one_of_its_own(store: FolderStore) -> None:
    texts = ["a" * length for length in (10, 10, 10, 200, 10, 60, 30)]
    schema = (Field("x", "int64"), Field("t", "text"))
    columns = {"x": np.arange(7), "t": pa.array(texts)}
    source = ScriptedSource(schema, [[Batch(columns, np.arange(7))]])
    dataset = prepare(source, store, segment_bytes=100)  # a record takes 12 bytes and its text
    assert [segment.records for segment in dataset.manifest.segments] == [3, 1, 2, 1]
    assert dataset.slice(0, 7)["t"].to_pylist() == texts


def test_a_record_that_is_larger_than_a_segment_has_one_of_its_own(store: FolderStore) -> None:
    dataset = prepare(ScriptedSource(X, [[xs(0, 1, 2)]]), store, segment_bytes=3)
    assert [segment.records for segment in dataset.manifest.segments] == [1, 1, 1]
    assert dataset.slice(0, 3)["x"].tolist() == [[0, 0], [1, -1], [2, -2]]


def test_small_units_share_a_segment_and_order_is_kept(parts: PartsSource, store: FolderStore) -> None:
    assert len(prepare(parts, store).segments) == 1


def test_a_unit_without_records_is_accounted_for(tmp_path: Path, store: FolderStore) -> None:
    for number, lines in enumerate(([1, 2], [], [3])):
        write_part(tmp_path / "parts", number, lines)
    dataset = prepare(PartsSource(folder=str(tmp_path / "parts")), store)
    assert numbers(dataset) == [1, 2, 3]
    assert [account.read for account in dataset.manifest.accounts] == [2, 0, 1]


def test_the_first_records_of_a_source_can_be_filtered(store: FolderStore) -> None:
    source = limit(ArraySource({"x": np.arange(200)}), 100).filter(lambda columns: columns["x"] % 2 == 0)
    prepared = prepare(source, store)
    np.testing.assert_array_equal(prepared.slice(0, prepared.count)["x"], np.arange(0, 100, 2))
    (account,) = prepared.manifest.accounts
    assert (account.read, account.written, account.left_out) == (100, 50, 50)


def test_progress_is_told_within_a_piece(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "INTERVAL", 0.0)
    told: list[Progress] = []
    prepare(ScriptedSource(X, [[xs(0, 1, 2), xs(3, 4, 5, 6), xs(7)]]), store, progress=told.append)
    assert [(progress.pieces, progress.records) for progress in told] == [(0, 0), (0, 3), (0, 7), (0, 8), (1, 8)]
    assert [progress.size for progress in told[:4]] == [0, 24, 56, 64]


def test_progress_is_told_after_every_piece(parts: PartsSource, store: FolderStore) -> None:
    told: list[Progress] = []
    prepare(parts, store, segment_bytes=100, progress=told.append)
    assert [progress.pieces for progress in told] == list(range(told[-1].of + 1))
    assert told[-1].records == 75
    assert told[-1].size == sum(segment.size for segment in open_all(store).manifest.segments)


def open_all(store: FolderStore) -> PreparedDataset:
    """The only dataset of a store."""
    (digest,) = kept(store)
    artifact = next(
        msgspec.json.decode(path.read_bytes())["artifact"] for path in store.root.glob("prepared/*/done.json")
    )
    assert artifact["digest"] == digest
    from ganglion.artifacts.store import Artifact

    return open_dataset(msgspec.convert(artifact, Artifact), store)


def test_nothing_is_copied_when_the_dataset_is_committed(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store)
    held = {digest for digest, _ in store.digests()}
    assert held == {dataset.artifact.digest, *store.references(dataset.artifact)}
    assert [path.name for path in store.root.glob("incoming/*")] == []


# what is found again


def test_a_source_that_has_not_changed_is_not_read_again(parts: PartsSource, store: FolderStore, reads) -> None:
    first = prepare(parts, store)
    assert len(reads()) == 10
    assert prepare(parts, store, memory=1000).artifact == first.artifact
    assert reads() == []
    write_part(Path(parts.folder), 3, [1, 2, 3])
    changed = prepare(parts, store)
    assert changed.artifact != first.artifact
    assert len(reads()) == 10


def test_a_dataset_whose_files_are_gone_is_made_again(parts: PartsSource, store: FolderStore, reads) -> None:
    first = prepare(parts, store)
    reads()
    store.delete(first.manifest.segments[0].digest)
    assert prepare(parts, store).artifact == first.artifact
    assert len(reads()) == 10


class FixedClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


def test_a_dataset_that_is_young_enough_is_taken_without_a_look_at_the_source(parts, store, reads) -> None:
    clock = FixedClock()
    first = prepare(parts, store, clock=clock)
    reads()
    for path in Path(parts.folder).glob("*.part"):
        path.unlink()
    write_part(Path(parts.folder), 0, [7])
    clock.time += 59
    assert prepare(parts, store, clock=clock, max_age=60).artifact == first.artifact
    clock.time += 2
    assert numbers(prepare(parts, store, clock=clock, max_age=60)) == [7]
    assert reads() == ["000.part"]


def test_other_arrays_are_another_source_whatever_their_age(store: FolderStore) -> None:
    first = prepare(ArraySource({"x": np.arange(3)}), store, max_age=1e9)
    assert numbers(prepare(ArraySource({"x": np.arange(3) + 1}), store, max_age=1e9)) == [1, 2, 3]
    assert prepare(ArraySource({"x": np.arange(3)}), store, max_age=1e9).artifact == first.artifact


def test_changed_code_is_another_preparation(tmp_path: Path, store: FolderStore, python, parts, reads) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from edited import Edited\n"
        "from ganglion.data import prepare\n"
        "from ganglion.artifacts.store import FolderStore\n"
        "store = FolderStore(pathlib.Path(sys.argv[4]))\n"
        "prepare(Edited(folder=sys.argv[2], log=sys.argv[3]), store)"
    )
    module = (
        "from parts_source import PartsSource\n"
        "class Edited(PartsSource, frozen=True, tag='edited:Edited'):\n    note: str = '{}'\n"
    )
    counts = []
    for text in ("a", "a", "longer"):  # Python takes a file of the same second and size for the same
        (tmp_path / "edited.py").write_text(module.format(text))
        process = python(code, tmp_path, parts.folder, parts.log, store.root)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        counts.append(len(reads()))
    assert counts == [10, 0, 10]


# what is refused


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (ArraySource({"x": np.empty((0, 3))}), "no records"),
        (ArraySource({"x": np.empty((3, 0))}), "x float64 0 hold no values"),
        (ArraySource({"": np.zeros(3)}), "named ''"),
        (ArraySource({"ganglion.id": np.zeros(3)}), "named 'ganglion.id'"),
        (ArraySource({"x": np.zeros(3, np.longdouble)}), "longdouble|float128"),
        (ScriptedSource(X, [[Batch({"x": np.zeros((1, 2))}, np.arange(1))]]), "yields x float64 2.*is x float32 2"),
        (ScriptedSource(X, [[Batch({"y": np.zeros((1, 2), np.float32)}, np.arange(1))]]), "yields y float32 2"),
        (ScriptedSource(X, [[Batch({"x": np.zeros((2, 2), np.float32)}, np.arange(1))]]), r"records: \[1, 2\]"),
        (ScriptedSource(X, [[xs(0, 1), xs(1)]]), "ids that do not ascend"),
        (ScriptedSource(X, [[xs(1, 0)]]), "ids that do not ascend"),
        (ScriptedSource(X, [[xs(RECORDS)]]), "some of another unit"),
        (ScriptedSource(X, [[xs(0, 2)]]), "1 of 3 records neither came nor were set aside"),
        (ScriptedSource(X, [[xs(0, 1)]], records=3), "announced 3 records and yields 2"),
    ],
)
def test_a_source_that_does_not_do_what_sources_do_is_refused(store: FolderStore, source, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        prepare(source, store)
    assert list(store.root.glob("prepared/*/done.json")) == []


def test_a_record_that_is_set_aside_and_comes_too_is_refused(store: FolderStore) -> None:
    bad = BadRecord.at(Unit(number=0, name="unit 0"), 1, "is bad")
    with pytest.raises(DataError, match="record 1 was set aside and came"):
        prepare(ScriptedSource(X, [[bad, xs(0, 1)]]), store)


def test_a_source_that_changes_while_it_is_read_is_refused(parts: PartsSource, store: FolderStore) -> None:
    def change(progress: Progress) -> None:
        write_part(Path(parts.folder), 9, [1])

    with pytest.raises(DataError, match=r"changed while it was read: 009\.part"):
        prepare(parts, store, progress=change)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"segment_bytes": 0}, "segment_bytes is 0"),
        ({"memory": 0}, "memory of 0 bytes"),
        ({"workers": 0}, "0 workers"),
        ({"workers": 2}, "2 workers.*`run`"),
        ({"max_bad": -1}, "max_bad is -1"),
        ({"max_bad": 1.5}, "max_bad is 1.5"),
        ({"max_bad": True}, "max_bad is True"),
    ],
)
def test_options_that_cannot_work_are_refused(store: FolderStore, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        prepare(ArraySource({"x": np.zeros(3)}), store, **options)


def test_a_source_that_is_no_plain_data_is_not_sent_to_other_processes(store: FolderStore) -> None:
    with pytest.raises(DataError, match="ScriptedSource cannot be sent"):
        prepare(ScriptedSource(X, [[xs(0)]]), store, workers=2, run=here)


def test_the_format_on_disk_never_changes(store: FolderStore) -> None:
    values = Batch({"x": np.arange(6, dtype=np.int16).reshape(3, 2)}, np.arange(3))
    dataset = prepare(ScriptedSource((Field("x", "int16", (2,)),), [[values]]), store, segment_bytes=8)
    assert list(dataset.files) == ["000/00000.arrow", "000/00001.arrow", "000/checksums.crc32c", "manifest.json"]
    manifest = json.loads(store.read(dataset.files[MANIFEST]))
    (origin,) = manifest.pop("origins")
    assert sorted(origin) == ["description", "fingerprint", "key"]
    assert origin["fingerprint"] == "scripted"
    digests = [segment.pop("digest") for segment in manifest["segments"]]
    assert manifest == {
        "format": 2,
        "schema": [{"name": "x", "dtype": "int16", "shape": [2]}],
        "segment_bytes": 8,
        "segments": [
            {
                "path": f"000/0000{number}.arrow",
                "generation": 0,
                "records": records,
                "ids": ids,
                "size": 1418,
                "columns": {"x": [[768, 4 * records]], "ganglion.id": [[832, 8 * records]]},
            }
            for number, (records, ids) in enumerate([(2, [0, 1]), (1, [2, 2])])
        ],
        "accounts": [
            {
                "unit": 0,
                "name": "unit 0",
                "path": "",
                "start": 0,
                "stop": 0,
                "fingerprint": "",
                "generation": 0,
                "read": 3,
                "written": 3,
                "set_aside": 0,
                "made": 0,
                "left_out": 0,
            }
        ],
        "bad": [],
    }
    assert dataset.artifact.kind == "dataset"
    assert digests == [
        "sha256:93c987d9e52a9b2e6487f13ec6664f2be2a7fc826603dd733af49536b56f4f24",
        "sha256:7ffb3c1cf02aa591a417e85b4869b176473ed313a9a96fdb00051b042c9db6a4",
    ]


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from ganglion.artifacts.store import FolderStore
from ganglion.data import IdxSource, prepare
from ganglion.data.preparation import driver

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

images, labels, folder, memory = sys.argv[1:]
before = peak()
prepare(IdxSource(images=images, labels=labels), FolderStore(Path(folder)), memory=int(memory))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_stays_within_what_was_given(write_idx, tmp_path: Path, python) -> None:
    source = write_idx(np.zeros((100_000, 28, 28), np.uint8), np.zeros(100_000, np.uint8), compressed=True)
    process = python(MEASURE, source.images, source.labels, tmp_path / "out", 32 * 2**20)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert int(output) <= 32 * 1.1, f"{output} MiB for 75 MiB of records"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_values_of_any_kind_come_back_as_they_went_in(tmp_path_factory, data) -> None:
    count = data.draw(st.integers(1, 40))
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3))
    raw = np.random.default_rng(count).integers(0, 100, (count, 2))
    columns: dict[str, Any] = {f"c{n}": raw.astype(dtype) for n, dtype in enumerate(dtypes)}
    for kind in data.draw(st.sets(st.sampled_from(["text", "bytes", "int32", "float16", "bool"]))):
        columns[kind] = data.draw(arrow_column(kind, count))
    schema = tuple(Field.of(name, column) for name, column in columns.items())
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, count), max_size=3))), count]
    whole = Batch(columns, np.arange(count))
    batches = [whole.part(start, stop) for start, stop in pairwise(cuts) if stop > start]
    store = FolderStore(tmp_path_factory.mktemp("store"))
    segment_bytes, memory = data.draw(st.sampled_from([30, 100, 10_000])), data.draw(st.sampled_from([1, 200, 10**6]))
    dataset = prepare(ScriptedSource(schema, [batches]), store, segment_bytes=segment_bytes, memory=memory)
    order = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=50)), np.int64)
    for found, wanted in ((dataset.slice(0, count), whole), (dataset.take(order), whole.take(order))):
        for name, column in wanted.columns.items():
            if isinstance(column, np.ndarray):
                assert found[name].dtype == column.dtype
                assert (found[name] == column).all()
            else:
                assert found[name].type == column.type
                assert found[name].to_pylist() == column.to_pylist()


DTYPES = ["bool", "uint8", "int16", "uint64", "int64", "float16", "float32", "float64", "complex64"]


@st.composite
def arrow_column(draw: st.DrawFn, kind: str, count: int) -> pa.Array:
    lists = {"int32": st.lists(st.integers(-9, 9)), "float16": st.lists(st.sampled_from([0.5, 2.0]))}
    values = {"text": st.text(), "bytes": st.binary(), "bool": st.lists(st.booleans()), **lists}[kind]
    types = {"text": pa.string(), "bytes": pa.binary(), "bool": pa.list_(pa.bool_())}
    type_ = types.get(kind) or pa.list_(pa.from_numpy_dtype(np.dtype(kind)))
    python = draw(st.lists(values, min_size=count, max_size=count))
    if kind == "float16":
        python = [[np.float16(value) for value in row] for row in python]
    return pa.array(python, type_)
