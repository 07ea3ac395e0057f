"""Transforms while a dataset is prepared: every record is accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parts_source import PairUp, PartsSource, is_odd, is_odd_mended, write_part

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data import grow, limit, prepare, replay
from ganglion.data.records.unit import RECORDS
from ganglion.data.sources.mixed import interleave
from ganglion.data.sources.transformed import TransformedSource
from ganglion.data.transforms.filter import Filter


def odd(source: PartsSource, function=is_odd) -> TransformedSource:
    return TransformedSource(source=source, transforms=(Filter(function),))


def test_what_a_filter_leaves_out_and_fails_on_is_counted(parts: PartsSource, store: FolderStore) -> None:
    write_part(Path(parts.folder), 1, ["!3", 4, 5, 6])
    dataset = prepare(odd(parts), store, max_bad=2)
    assert dataset.slice(0, dataset.count)["x"].tolist() == [x for x in range(75) if x % 2 and x not in (3, 33)]
    accounts = dataset.manifest.accounts
    assert [account.read for account in accounts] == [3 + unit for unit in range(10)]
    assert [account.set_aside for account in accounts] == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    assert sum(account.written for account in accounts) == dataset.count == 35
    assert sum(account.left_out for account in accounts) == 38
    assert [(record.stage, record.reason) for record in dataset.quarantine()] == [
        ("read", "3 is no number"),
        ("filter parts_source:is_odd", "ValueError: 33 is neither"),
    ]


def test_a_transform_that_was_mended_is_replayed(parts: PartsSource, store: FolderStore, reads) -> None:
    dataset = prepare(odd(parts), store, max_bad=1)
    reads()
    found = replay(dataset, odd(parts, is_odd_mended), store)
    assert reads() == ["006.part"]
    assert found.slice(found.count - 1, found.count)["x"].tolist() == [33]
    assert found.manifest.set_aside == 0
    assert [(account.written, account.left_out) for account in found.manifest.accounts][6] == (5, 4)


def test_a_transformed_source_grows(parts: PartsSource, store: FolderStore, reads) -> None:
    dataset = prepare(odd(parts), store, max_bad=1)
    reads()
    write_part(Path(parts.folder), 10, range(75, 80))
    grown = grow(dataset, odd(parts), store)
    assert reads() == ["010.part"]
    assert grown.slice(dataset.count, grown.count)["x"].tolist() == [75, 77, 79]
    with pytest.raises(DataError, match="has changed"):
        grow(dataset, odd(parts, is_odd_mended), store)


def test_records_that_are_made_of_several_are_accounted_for(parts: PartsSource, store: FolderStore) -> None:
    source = TransformedSource(source=parts, transforms=(PairUp(),))
    dataset = prepare(source, store)
    assert dataset.slice(0, dataset.count)["sum"].sum() == sum(range(75))
    for unit, account in enumerate(dataset.manifest.accounts):
        made = -(-(3 + unit) // 2)
        assert (account.read, account.made, account.written, account.left_out) == (3 + unit, made, made, 3 + unit)
    assert dataset.ids(np.arange(4)).tolist() == [0, 1, RECORDS, RECORDS + 1]
    with pytest.raises(DataError, match="new records of several"):
        replay(dataset, source, store)


def test_mixtures_and_limits_are_prepared_like_other_sources(parts: PartsSource, store: FolderStore) -> None:
    mixed = prepare(interleave(parts, odd(parts, is_odd_mended)), store)
    assert mixed.count == 75 + 37
    limited = prepare(limit(odd(parts, is_odd_mended), 10), store)
    assert limited.slice(0, 10)["x"].tolist() == list(range(1, 20, 2))
