from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from parts_source import PartsSource, write_part
from test_prepare import ScriptedSource, X, xs

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data import Field, prepare, replay
from ganglion.data.dataset.manifest import BadCount
from ganglion.data.dataset.quarantine import (
    PAYLOADS,
    QuarantineWriter,
    add_counts,
    count_bad,
    read_quarantine,
    too_many,
)
from ganglion.data.preparation import outlook
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.unit import RECORDS, Unit


@pytest.fixture
def dirty(parts: PartsSource) -> PartsSource:
    """Of 75 records four are bad: two in the file with number 2, one each in 5 and 6."""
    write_part(Path(parts.folder), 2, [7, "!8", "!9", 10, 11])
    write_part(Path(parts.folder), 5, ["!25", *range(26, 33)])
    write_part(Path(parts.folder), 6, [*range(33, 41), "!41"])
    return parts


def test_bad_records_are_kept_with_all_that_is_known(dirty: PartsSource, store: FolderStore) -> None:
    dataset = prepare(dirty, store, max_bad=4, segment_bytes=100)
    assert dataset.count == 71
    found = list(dataset.quarantine())
    assert [record.id for record in found] == [2 * RECORDS + 1, 2 * RECORDS + 2, 5 * RECORDS, 6 * RECORDS + 8]
    assert found[1] == BadRecord(
        id=2 * RECORDS + 2,
        source="002.part",
        path=str(Path(dirty.folder) / "002.part"),
        offset=5,
        stage="read",
        reason="9 is no number",
        digest=hashlib.sha256(b"!9\n").hexdigest(),
        payload=b"!9\n",
    )
    counts = [(Path(count.source).name, count.stage, count.reason, count.count) for count in dataset.manifest.bad]
    assert counts == [(f"00{n}.part", "read", "# is no number", count) for n, count in ((2, 2), (5, 1), (6, 1))]
    assert [account.set_aside for account in dataset.manifest.accounts] == [0, 0, 2, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("max_bad", [3, 0, 0.05, 0.0])
def test_more_than_is_tolerated_ends_with_the_reasons_and_a_list(dirty, store, max_bad: int | float) -> None:
    with pytest.raises(DataError, match=r"\d of \d+ records are bad") as error:
        prepare(dirty, store, max_bad=max_bad, segment_bytes=100)
    assert "x read: # is no number" in str(error.value)
    assert "002.part, byte 2: read: 8 is no number" in str(error.value)
    where = Path(str(error.value).rpartition(" in ")[2].removesuffix("."))
    listed = [record for path in sorted(where.iterdir()) for record in read_quarantine(path)]
    assert listed[0].payload == b"!8\n"
    assert len(listed) == (4 if isinstance(max_bad, float) else max_bad + 1)


class Watched(ScriptedSource):
    """Ten units of ten records each, those of the first two bad; keeps in mind which were read."""

    def __init__(self, **unit: object) -> None:
        bad = [
            [BadRecord.at(Unit(number=number, name=f"unit {number}"), place, "is bad") for place in range(10)]
            for number in range(2)
        ]
        good = [[xs(*range(number * RECORDS, number * RECORDS + 10))] for number in range(2, 10)]
        super().__init__(X, [*bad, *good], **unit)
        self.read: list[int] = []

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        self.read.append(unit.number)
        return super().read_unit(unit, size, set_aside)


@pytest.mark.parametrize(("max_bad", "last"), [(0.05, 0), (0.1, 1), (0.19, 1), (0.2, 9)])
def test_a_share_is_known_to_be_exceeded_as_soon_as_all_further_records_could_not_mend_it(
    store: FolderStore, max_bad: float, last: int
) -> None:
    source = Watched(records=10, size=100)
    if max_bad == 0.2:
        prepare(source, store, max_bad=max_bad, segment_bytes=1)
    else:
        with pytest.raises(DataError, match=r"\d+ of \d+ records are bad, and max_bad tolerates .*\n.*is bad"):
            prepare(source, store, max_bad=max_bad, segment_bytes=1)
    assert source.read == list(range(last + 1))


def test_bytes_tell_how_many_records_there_are_about_where_nobody_says(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "SEEN", 20)
    source = Watched(size=100)
    with pytest.raises(DataError, match="20 of 20 records are bad"):
        prepare(source, store, max_bad=0.01, segment_bytes=1)
    assert source.read == [0, 1]
    source.read.clear()
    with pytest.raises(DataError, match="20 of 70 records are bad"):
        prepare(source, store, max_bad=0.1, segment_bytes=1)  # the last 300 bytes may have 120 records, no more
    assert source.read == [2, 3, 4, 5, 6]  # it goes on where it was


@pytest.mark.parametrize("max_bad", [4, 0.06, 1.0])
def test_what_is_tolerated_passes(dirty: PartsSource, store: FolderStore, max_bad: int | float) -> None:
    assert prepare(dirty, store, max_bad=max_bad).count == 71


def test_a_higher_threshold_goes_on_where_the_lower_one_ended(dirty, store, reads) -> None:
    with pytest.raises(DataError):
        prepare(dirty, store, max_bad=2, segment_bytes=60)
    assert reads() == [f"00{number}.part" for number in range(6)]
    dataset = prepare(dirty, store, max_bad=4, segment_bytes=60)
    assert "001.part" not in reads()
    assert dataset.count == 71


def test_a_dataset_with_more_bad_records_than_are_tolerated_now_is_not_taken_from_the_cache(dirty, store) -> None:
    prepare(dirty, store, max_bad=4)
    for max_age in (None, 60.0):
        with pytest.raises(DataError, match=r"4 of 75 records are bad"):
            prepare(dirty, store, max_bad=3, max_age=max_age)


def test_values_that_are_missing_are_set_aside(store: FolderStore) -> None:
    texts = pa.array(["a", None, "c"])
    source = ScriptedSource((Field("t", "text"),), [[Batch({"t": texts}, np.arange(3))]])
    dataset = prepare(source, store, max_bad=1)
    assert dataset.slice(0, 2)["t"].to_pylist() == ["a", "c"]
    assert dataset.ids(np.arange(2)).tolist() == [0, 2]
    (record,) = dataset.quarantine()
    assert (record.id, record.stage, record.reason) == (1, "write", "the field 't' has no value")
    assert dataset.manifest.accounts[0].read == 3


# replay


def test_replay_adds_what_was_mended_as_a_generation(dirty: PartsSource, store: FolderStore, reads) -> None:
    dataset = prepare(dirty, store, max_bad=4, segment_bytes=100)
    write_part(Path(dirty.folder), 2, [7, 8, "!9", 10, 11])  # one of two is mended
    reads()
    found = replay(dataset, dirty, store)
    assert reads() == ["002.part", "005.part", "006.part"]
    assert found.generations == (71, 72)
    assert found.slice(71, 72)["x"].tolist() == [8]
    assert found.ids(np.array([71])).tolist() == [2 * RECORDS + 1]
    assert [record.id for record in found.quarantine()] == [2 * RECORDS + 2, 5 * RECORDS, 6 * RECORDS + 8]
    assert found.manifest.set_aside == 3
    assert [(account.written, account.set_aside) for account in found.manifest.accounts][2] == (4, 1)
    found.verify()

    whole = replay(found, msgspec.structs.replace(dirty, mended=True), store)
    assert whole.generations == (71, 72, 75)
    assert sorted(whole.slice(0, 75)["x"].tolist()) == list(range(75))
    assert list(whole.quarantine()) == []
    assert whole.manifest.bad == ()
    assert [record.id for record in dataset.quarantine()] == [
        2 * RECORDS + 1,
        2 * RECORDS + 2,
        5 * RECORDS,
        6 * RECORDS + 8,
    ]


def test_a_file_that_lost_a_record_cannot_be_replayed(dirty: PartsSource, store: FolderStore) -> None:
    dataset = prepare(dirty, store, max_bad=4)
    write_part(Path(dirty.folder), 2, [7, 9, 10, 11])
    with pytest.raises(DataError, match=r"002\.part had 5 records and now has 4"):
        replay(dataset, dirty, store)


def test_a_file_that_is_gone_cannot_be_replayed(dirty: PartsSource, store: FolderStore) -> None:
    dataset = prepare(dirty, store, max_bad=4)
    (Path(dirty.folder) / "005.part").unlink()
    with pytest.raises(DataError, match=r"005\.part, where 1 records were set aside, is gone"):
        replay(dataset, dirty, store)


def test_nothing_to_replay_is_the_same_dataset(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store)
    assert replay(dataset, parts, store).artifact == dataset.artifact


# files, counts, thresholds


def bad(reason: str, *, payload: bytes = b"", record: int = 0) -> BadRecord:
    return BadRecord.at(Unit(number=0, name="u"), record, reason, payload=payload)


def test_payloads_of_a_file_are_limited_and_records_are_not(tmp_path: Path) -> None:
    with QuarantineWriter(tmp_path / "q.jsonl") as writer:
        for record in range(PAYLOADS // 2**20 + 3):
            writer.write(bad("x", payload=bytes(2**20), record=record))
    records = list(read_quarantine(tmp_path / "q.jsonl"))
    assert len(records) == writer.count == PAYLOADS // 2**20 + 3
    assert sum(len(record.payload) for record in records) == PAYLOADS
    assert all(record.digest for record in records)


def test_a_line_that_is_no_bad_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(msgspec.json.encode(bad("x")) + b"\n{}\n")
    with pytest.raises(DataError, match=r"q\.jsonl, line 2"):
        list(read_quarantine(tmp_path / "q.jsonl"))


def test_like_reasons_are_counted_together() -> None:
    records = [bad("expected 3 columns, found 2"), bad("expected 3 columns, found 17"), bad("not UTF-8 at 0x1f")]
    assert count_bad(records) == (
        BadCount("u", "read", "expected # columns, found #", 2),
        BadCount("u", "read", "not UTF-# at #", 1),
    )


def test_there_are_at_most_a_hundred_kinds() -> None:
    counts = count_bad(bad("x" * length) for length in range(150))
    assert len(counts) == 101
    assert sum(count.count for count in add_counts((*counts, *counts))) == 300


@pytest.mark.parametrize(
    ("bad_", "read", "max_bad", "over"),
    [
        (0, 0, 0, False),
        (1, 10, 0, True),
        (1, 10, 1, False),
        (1, 10, 0.1, False),
        (2, 10, 0.1, True),
        (10, 10, 1.0, False),
    ],
)
def test_thresholds(bad_: int, read: int, max_bad: int | float, over: bool) -> None:
    assert too_many(bad_, read, max_bad) is over
