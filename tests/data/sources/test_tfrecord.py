from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Field
from ganglion.data.source import source_data, source_from
from ganglion.data.sources import tfrecord, tfrecord_frames
from ganglion.data.sources.example import encode
from ganglion.data.sources.tfrecord import TFRecordSource, write_tfrecord
from ganglion.data.sources.tfrecord_frames import frame

# One record, "hello", as TensorFlow 2.21 wrote it.
HELLO = bytes.fromhex("0500000000000000" + "eab2043e" + "68656c6c6f" + "bb1f1c19")


def read(source: TFRecordSource, size: int = 2**20) -> tuple[list[Batch], list[BadRecord]]:
    bad: list[BadRecord] = []
    return [batch for unit in source.units() for batch in source.read_unit(unit, size, bad.append)], bad


def raw(path: Path) -> TFRecordSource:
    return TFRecordSource(paths=str(path), format="bytes")


def records(batches: list[Batch]) -> list[bytes]:
    return [record for batch in batches for record in batch.columns["record"].to_pylist()]


@pytest.fixture
def some() -> list[bytes]:
    source = random.Random(4)
    return [source.randbytes(source.choice((0, 1, 7, 300, 300, 300))) for _ in range(500)]


def test_records_come_back_in_order_with_ids_whatever_the_size_of_batches(tmp_path: Path, some: list[bytes]) -> None:
    for part in range(2):
        assert write_tfrecord(tmp_path / f"{part}.tfrecord", some[part * 250 : part * 250 + 250]) == 250
    for size in (1, 2**17, 2**30):
        batches, bad = read(raw(tmp_path), size)
        assert records(batches) == some
        assert not bad
        assert np.concatenate([batch.ids for batch in batches]).tolist() == [
            part * 2**40 + number for part in range(2) for number in range(250)
        ]


def test_a_record_lies_in_the_file_as_the_format_says(tmp_path: Path) -> None:
    assert frame(b"hello") == HELLO


def test_examples_become_columns_whether_they_are_laid_out_alike_or_not(tmp_path: Path) -> None:
    count = 300
    values = np.random.default_rng(0)
    image = values.integers(0, 256, (count, 4, 3), np.uint8)
    label = values.integers(-3, 200, count)
    point = values.standard_normal((count, 2)).astype(np.float32)
    words = [f"wörd {number}" * (number % 3) for number in range(count)]
    bags = [list(range(-number, number % 5)) for number in range(count)]
    path = tmp_path / "a.tfrecord"
    write_tfrecord(
        path,
        (
            {"image": image[at].tobytes(), "label": label[at], "point": point[at], "word": words[at], "bag": bags[at]}
            for at in range(count)
        ),
    )
    inferred = TFRecordSource(paths=str(path))
    assert [str(field) for field in inferred.schema] == [
        "bag int64 ...",
        "image bytes",
        "label int64",
        "point float32 2",
        "word bytes",
    ]
    fields = (
        Field("image", "uint8", (4, 3)),
        Field("label", "int16"),
        Field("point", "float64", (2,)),
        Field("word", "text"),
        Field("bag", "int64", sequence=True),
    )
    given_fields = TFRecordSource(paths=str(path), fields=fields)
    for source in (inferred, given_fields):
        batches, bad = read(source, 2**17)
        assert not bad
        found = Batch.join(batches)
        assert (found.columns["label"] == label).all()
        assert (found.columns["point"] == point).all()
        assert found.columns["bag"].to_pylist() == bags
    assert (found.columns["image"] == image).all()
    assert found.columns["word"].to_pylist() == words
    for field in fields:
        assert Field.of(field.name, found.columns[field.name]) == field


def test_examples_written_without_packing_are_read(tmp_path: Path) -> None:
    # feature "n": int64 values 1 and 300, each a field of its own, as Protocol Buffers allows
    entry = b"\x0a\x01n\x12\x07\x1a\x05\x08\x01\x08\xac\x02"
    example = bytes((0x0A, len(entry) + 2, 0x0A, len(entry))) + entry
    write_tfrecord(tmp_path / "a.tfrecord", [example] * 5)
    batches, _bad = read(TFRecordSource(paths=str(tmp_path)))
    assert Batch.join(batches).columns["n"].tolist() == [[1, 300]] * 5


def test_records_that_do_not_have_the_fields_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    good = [encode({"x": [1.5, 2.5], "n": number}) for number in range(20)]
    bad = {
        3: (b"\xff\xff", "no tf.train.Example"),
        7: (encode({"x": [1.0, 2.0]}), "no feature 'n'"),
        8: (encode({"x": [1.0], "n": 1}), "1 values; expected 2"),
        11: (encode({"x": "ab", "n": 1}), "2 bytes; x float32 2 takes 8"),
        12: (encode({"x": [1.0, 2.0], "n": 1.0}), "holds floats"),
        15: (encode({"x": [1.0, 2.0], "n": 2**40}), "cannot hold"),
    }
    path = tmp_path / "a.tfrecord"
    write_tfrecord(path, [bad[number][0] if number in bad else good[number] for number in range(20)])
    source = TFRecordSource(paths=str(path), fields=(Field("x", "float32", (2,)), Field("n", "int32")))
    batches, found = read(source)
    assert [each.id for each in found] == list(bad)
    for each, (payload, reason) in zip(found, bad.values(), strict=True):
        assert reason in each.reason
        assert each.payload == payload
        assert path.read_bytes()[each.offset + 12 :].startswith(payload)
    assert Batch.join(batches).columns["n"].tolist() == [number for number in range(20) if number not in bad]
    filled, rest = read(msgspec.structs.replace(source, fill={"n": -1}))
    assert 7 not in {each.id for each in rest}
    assert -1 in Batch.join(filled).columns["n"]


@pytest.mark.parametrize("size", [2**16, 2**24])
def test_every_flipped_bit_is_found_and_nothing_else_is_lost(tmp_path: Path, some: list[bytes], size: int) -> None:
    source = random.Random(1)
    frames = [bytearray(frame(record)) for record in some]
    hit = sorted(source.sample(range(len(some)), 50))
    for number in hit:
        bit = source.randrange(8 * len(frames[number]))
        frames[number][bit // 8] ^= 1 << bit % 8
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(frames))
    batches, bad = read(raw(path), size)
    assert [each.id for each in bad] == hit
    assert [each.offset for each in bad] == [sum(map(len, frames[:number])) for number in hit]
    assert records(batches) == [record for number, record in enumerate(some) if number not in hit]
    assert np.concatenate([batch.ids for batch in batches]).tolist() == sorted({*range(len(some))} - {*hit})


class Never(threading.Event):
    """Nobody ever waits."""

    def is_set(self) -> bool:
        return False


class Always(threading.Event):
    """Somebody waits all the time."""

    def is_set(self) -> bool:
        return True


@pytest.mark.parametrize(("waits", "where"), [(Never, "prefetch_0"), (Always, "MainThread")])
def test_the_thread_that_reads_ahead_and_the_one_that_waits_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: type[threading.Event], where: str
) -> None:
    source = random.Random(2)
    some = [source.randbytes(source.choice((0, 40, 3000, 3000, 100_000))) for _ in range(300)]
    frames = [bytearray(frame(record)) for record in some]
    hit = sorted(source.sample(range(len(some)), 60))
    for number in hit:
        frames[number][source.randrange(12, len(frames[number]))] ^= 1 << source.randrange(8)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(frames))
    threads = set()
    check = tfrecord_frames.Stretch.check

    def noticed(stretch: tfrecord_frames.Stretch) -> None:
        if stretch._unchecked:
            threads.add(threading.current_thread().name)
        check(stretch)

    monkeypatch.setattr(tfrecord, "Event", waits)
    monkeypatch.setattr(tfrecord_frames.Stretch, "check", noticed)
    batches, bad = read(raw(path), 2**17)
    assert len(batches) > 20
    assert threads == {where}
    assert [each.id for each in bad] == hit
    assert [each.payload for each in bad] == [bytes(frames[number][12:-4]) for number in hit]
    assert records(batches) == [record for number, record in enumerate(some) if number not in hit]


def test_what_was_given_away_does_not_change_while_reading_goes_on(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((2000, 64)).astype(np.float32)
    features = [{"x": row, "n": number, "b": row.tobytes()} for number, row in enumerate(values)]
    write_tfrecord(tmp_path / "a.tfrecord", features)
    fields = (Field("x", "float32", (64,)), Field("n", "int64"), Field("b", "float32", (64,)))
    batches, bad = read(TFRecordSource(paths=str(tmp_path), fields=fields), 2**17)
    assert not bad
    assert len(batches) > 10
    found = Batch.join(batches).columns
    assert np.array_equal(found["x"], values)
    assert np.array_equal(found["b"], values)
    assert found["n"].tolist() == list(range(2000))


def test_a_reader_that_is_left_early_leaves_no_thread_and_no_file_open(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", [bytes(1000)] * 1000)
    source = raw(tmp_path)
    unit = source.units()[0]
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        reading = source.read_unit(unit, 2**17, lambda record: None)
        next(reading)
        reading.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


READ_IN_LITTLE_MEMORY = """
import sys, threading
import pyarrow.compute
from ganglion.data.sources.tfrecord import TFRecordSource

def taken():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))

source = TFRecordSource(paths=sys.argv[1], format="bytes")
unit, = source.units()
peak = before = taken()
ended = threading.Event()

def watch():
    global peak
    while not ended.wait(0.002):
        peak = max(peak, taken())

watching = threading.Thread(target=watch)
watching.start()
count = sum(len(batch) for batch in source.read_unit(unit, 2**24, print))
ended.set()
watching.join()
print(count, max(peak, taken()) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the proportional set size is Linux's")
def test_memory_is_that_of_two_stretches_and_a_batch_whatever_the_size_of_the_file(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", [bytes(8000)] * 2**14)
    command = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(tmp_path)]
    count, growth = map(int, subprocess.run(command, check=True, capture_output=True).stdout.split())
    assert count == 2**14
    assert growth < 6 * 2**24, f"{growth / 2**20:.0f} MiB for batches of 16 MiB from a file of 125 MiB"


def test_after_a_broken_length_all_other_records_are_found(tmp_path: Path, some: list[bytes]) -> None:
    data = bytearray(b"".join(map(frame, some)))
    start = sum(len(frame(record)) for record in some[:100])
    data[start : start + 8] = b"\xff" * 8
    path = tmp_path / "a.tfrecord"
    path.write_bytes(data)
    batches, bad = read(raw(path))
    assert records(batches) == some[:100] + some[101:]
    assert [(each.id, each.offset, each.payload[: len(some[100])]) for each in bad] == [(100, start, some[100])]


def test_bytes_missing_from_the_middle_of_a_record_cost_that_record_alone(tmp_path: Path) -> None:
    some = [bytes([number]) * 200 for number in range(40)]
    data = bytearray(b"".join(map(frame, some)))
    del data[216 * 10 + 50 : 216 * 10 + 80]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(data[:-7])  # and the file ends early
    batches, bad = read(raw(path))
    assert records(batches) == some[:10] + some[11:-1]
    assert [each.id for each in bad] == [10, 39]
    assert "the file ends within the record" in bad[1].reason


def test_records_that_hold_records_do_not_mislead_the_search(tmp_path: Path, some: list[bytes]) -> None:
    outer = [b"".join(map(frame, some[number : number + 20])) for number in range(0, 100, 20)]
    data = bytearray(b"".join(map(frame, outer)))
    data[2] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(data)
    batches, bad = read(raw(path))
    assert records(batches) == outer[1:]
    assert len(bad) == 1


def test_without_verification_lengths_are_still_checked_and_records_are_not(tmp_path: Path) -> None:
    data = bytearray(b"".join(frame(bytes(50)) for _ in range(10)))
    data[30] ^= 1
    data[66 * 5] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(data)
    batches, bad = read(msgspec.structs.replace(raw(path), verify=False))
    assert [each.id for each in bad] == [5]
    assert records(batches)[0] != bytes(50)


def test_compressed_and_remote_files_are_read_and_a_truncated_one_is_named(tmp_path: Path, some: list[bytes]) -> None:
    data = gzip.compress(b"".join(map(frame, some)))
    (tmp_path / "a.tfrecord.gz").write_bytes(data)
    assert records(read(raw(tmp_path))[0]) == some
    with fsspec.open("memory://records/a.tfrecord", "wb") as file:
        file.write(b"".join(map(frame, some)))
    assert records(read(TFRecordSource(paths="memory://records/a.tfrecord", format="bytes"))[0]) == some
    (tmp_path / "a.tfrecord.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.tfrecord\.gz"):
        read(raw(tmp_path))


def test_empty_files_have_no_records_and_nothing_to_infer_from(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").touch()
    assert read(raw(tmp_path)) == ([], [])
    with pytest.raises(DataError, match="give the fields"):
        _ = TFRecordSource(paths=str(tmp_path)).schema


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        ([{"x": 1}, {"x": 1.0}], "'x' holds floats and integers"),
        ([b"no example"], "format 'bytes'"),
    ],
)
def test_what_cannot_be_inferred_is_refused(tmp_path: Path, features: list, problem: str) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", features)
    with pytest.raises(DataError, match=problem):
        _ = TFRecordSource(paths=str(tmp_path)).schema


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave out fields"):
        TFRecordSource(paths="a", format="bytes", fields=(Field("x", "int64"),))
    with pytest.raises(DataError, match=r"'y'.*the fields are x"):
        _ = TFRecordSource(paths="a", fields=(Field("x", "int64"),), fill={"y": 1}).schema
    with pytest.raises(DataError, match="'x'"):
        write_tfrecord(tmp_path / "a", [{"x": [None]}])


def test_the_source_survives_as_plain_data(tmp_path: Path, some: list[bytes]) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", some)
    source = TFRecordSource(paths=str(tmp_path), fields=(Field("x", "int64"),), fill={"x": 1})
    assert source_from(msgspec.msgpack.decode(msgspec.msgpack.encode(source_data(source)))) == source
    assert source.fingerprint() != raw(tmp_path).fingerprint()


Change = tuple[str, float, int]


def mutate(data: bytes, changes: list[Change]) -> bytes:
    mutated = bytearray(data)
    for kind, where, value in changes:
        at = int(where * len(mutated))
        if kind == "flip" and at < len(mutated):
            mutated[at] ^= 1 << value % 8
        elif kind == "delete":
            del mutated[at : at + value]
        elif kind == "insert":
            mutated[at:at] = bytes([value]) * (value % 20)
        elif kind == "cut":
            del mutated[at:]
    return bytes(mutated)


changes = st.lists(
    st.tuples(st.sampled_from(("flip", "flip", "delete", "insert", "cut")), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=30), changes)
def test_whatever_happens_to_the_bytes_no_record_is_read_that_was_not_written(
    tmp_path: Path, some: list[bytes], changes: list[Change]
) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(mutate(b"".join(map(frame, some)), changes))
    batches, _bad = read(raw(path))
    assert set(records(batches)) <= set(some)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | changes.map(lambda made: mutate(encode({"a": [1, 300], "b": [1.0], "c": "x"}), made)))
def test_bytes_of_any_kind_are_an_example_or_are_refused_with_a_reason(data: bytes) -> None:
    from ganglion.data.sources.example_columns import read_examples
    from ganglion.data.sources.tfrecord_frames import read_frames

    schema = (Field("a", "int64", (2,)), Field("b", "float32"), Field("c", "text"))
    for frames in read_frames(io.BytesIO(frame(data) * 5), 2**20):
        columns, rows, problems = read_examples(frames, schema, {})
        assert sorted([*rows.tolist(), *problems]) == [0, 1, 2, 3, 4]
        assert len(columns["a"]) == len(rows)
