from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from parts_source import PartsSource, write_part

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data import ArraySource, Loader, grow, open_dataset, prepare
from ganglion.data.records.unit import RECORDS


def test_only_new_files_are_read_and_numbers_of_records_stay(parts: PartsSource, store: FolderStore, reads) -> None:
    old = prepare(parts, store, segment_bytes=400)
    reads()
    write_part(Path(parts.folder), 10, [75, 76])
    (Path(parts.folder) / "003b.part").write_text("77\n")  # sorts between the files that were there
    grown = grow(old, parts, store)
    assert reads() == ["003b.part", "010.part"]
    assert grown.generations == (75, 78)
    assert grown.slice(0, 78)["x"].tolist() == [*range(75), 77, 75, 76]
    assert (grown.ids(np.arange(75)) == old.ids(np.arange(75))).all()
    assert grown.ids(np.array([75, 76, 77])).tolist() == [10 * RECORDS, 11 * RECORDS, 11 * RECORDS + 1]
    assert [account.generation for account in grown.manifest.accounts] == [0] * 10 + [1] * 2
    grown.verify()


def test_the_earlier_generation_stays_and_shares_its_files(parts: PartsSource, store: FolderStore) -> None:
    old = prepare(parts, store)
    before = dict(store.digests())
    write_part(Path(parts.folder), 10, range(75, 80))
    grown = grow(old, parts, store)
    written = sum(size for digest, size in store.digests() if digest not in before)
    assert written < 12_000  # new records, checksums, manifest and list of files, but no old record
    assert set(before) <= set(dict(store.digests()))
    assert {segment.digest for segment in old.manifest.segments} <= {
        segment.digest for segment in grown.manifest.segments
    }
    assert open_dataset(old.artifact, store).count == 75


def test_a_running_epoch_does_not_see_what_was_added(parts: PartsSource, store: FolderStore) -> None:
    old = prepare(parts, store)
    expected = [batch["x"].tolist() for batch in Loader(old, global_batch=10).batches(0, first=0, last=1, of=1)]
    batches = Loader(open_dataset(old.artifact, store), global_batch=10).batches(0, first=0, last=1, of=1)
    found = [next(batches)["x"].tolist()]
    write_part(Path(parts.folder), 10, range(75, 90))
    grown = grow(old, parts, store)
    found += [batch["x"].tolist() for batch in batches]
    assert found == expected
    assert Loader(grown, global_batch=10).count == 90


def test_growth_upon_growth(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store)
    for number in range(10, 13):
        write_part(Path(parts.folder), number, [number])
        dataset = grow(dataset, parts, store)
    assert dataset.generations == (75, 76, 77, 78)
    assert dataset.slice(75, 78)["x"].tolist() == [10, 11, 12]
    assert len(dataset.manifest.origins) == 4
    assert dataset.manifest.origins[-1].fingerprint == parts.fingerprint()


def test_without_anything_new_it_is_the_same_dataset(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store)
    assert grow(dataset, parts, store).artifact == dataset.artifact


def test_growing_again_after_a_crash_of_the_caller_reads_nothing(parts: PartsSource, store: FolderStore, reads) -> None:
    dataset = prepare(parts, store)
    write_part(Path(parts.folder), 10, [1])
    grown = grow(dataset, parts, store)
    reads()
    assert grow(dataset, parts, store).artifact == grown.artifact
    assert reads() == []


def test_what_changed_or_is_gone_is_refused(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store)
    write_part(Path(parts.folder), 10, [1])
    os.unlink(Path(parts.folder) / "004.part")
    write_part(Path(parts.folder), 2, [0])
    with pytest.raises(DataError, match=r"002\.part has changed, 004\.part is gone\. .* prepare the source anew"):
        grow(dataset, parts, store)


def test_another_schema_is_refused(parts: PartsSource, store: FolderStore) -> None:
    dataset = prepare(parts, store)
    with pytest.raises(DataError, match=r"yields x int64; the dataset has x int64, pair float32 2, name text"):
        grow(dataset, ArraySource({"x": np.arange(3)}), store)


def test_new_bad_records_are_judged_alone(parts: PartsSource, store: FolderStore) -> None:
    write_part(Path(parts.folder), 3, ["!1", 2, 3])
    dataset = prepare(parts, store, max_bad=1)
    write_part(Path(parts.folder), 10, ["!1", "!2", 3])
    with pytest.raises(DataError, match="2 of 2 records are bad"):
        grow(dataset, parts, store, max_bad=1)
    grown = grow(dataset, parts, store, max_bad=0.7)
    assert [record.id for record in grown.quarantine()] == [3 * RECORDS, 10 * RECORDS, 10 * RECORDS + 1]
    assert grown.manifest.set_aside == sum(count.count for count in grown.manifest.bad) == 3


def test_a_prepared_source_that_grew_is_found_as_it_is(parts: PartsSource, store: FolderStore, reads) -> None:
    dataset = prepare(parts, store)
    write_part(Path(parts.folder), 10, [1])
    grown = grow(dataset, parts, store)
    reads()
    assert prepare(parts, store, max_age=60).artifact == grown.artifact
    assert prepare(msgspec.structs.replace(parts, mended=True), store, max_age=60).artifact != grown.artifact
