from __future__ import annotations

import threading
from itertools import chain, islice, pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data import ArraySource, Loader, Split, open_loader, prepare
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.ahead import THREADS


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[int, PreparedDataset]:
    """Datasets of some sizes, the larger ones in several segments, whose `id` is the record's number."""
    store = FolderStore(tmp_path_factory.mktemp("datasets"))
    return {
        count: prepare(
            ArraySource({"id": np.arange(count), "x": np.arange(count, dtype=np.float32)}), store, segment_bytes=240
        )
        for count in (1, 2, 17, 64, 100, 501)
    }


def ids(batches) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


@given(data=st.data())
def test_whatever_processes_own_which_workers_the_global_batches_are_the_same(datasets, data) -> None:
    count = data.draw(st.sampled_from(sorted(datasets)))
    of = data.draw(st.integers(1, 9))
    cuts = data.draw(st.sets(st.integers(1, of - 1), max_size=of - 1)) if of > 1 else set()
    loader = Loader(
        datasets[count],
        global_batch=data.draw(st.integers(1, 70)),
        seed=data.draw(st.integers(0, 2**64 - 1)),
        shuffle=data.draw(st.booleans()),
        drop_last=False,
        parallel=data.draw(st.sampled_from([None, 0, 1, 2])),
        memory=data.draw(st.sampled_from([2**16, 2**20])),
    )
    epoch = data.draw(st.integers(0, 2**40))
    expected = ids(loader.batches(epoch, first=0, last=1, of=1))
    ends = [0, *sorted(cuts), of]
    ranks = [ids(loader.batches(epoch, first=a, last=b, of=of)) for a, b in pairwise(ends)]
    assert [list(chain.from_iterable(pieces)) for pieces in zip(*ranks, strict=True)] == expected
    assert sorted(record for batch in expected for record in batch) == list(range(count))
    assert len(expected) == loader.steps_per_epoch
    assert {len(batch) for batch in expected[:-1]} <= {loader.global_batch}
    workers = [ids(loader.batches(epoch, first=v, last=v + 1, of=of)) for v in range(of)]
    for pieces in zip(*workers, strict=True):
        sizes = [len(piece) for piece in pieces]
        assert max(sizes) - min(sizes) <= 1
    start = data.draw(st.integers(0, loader.steps_per_epoch))
    assert ids(loader.batches(epoch, first=0, last=1, of=1, start=start)) == expected[start:]


def test_epochs_differ_and_repeat_exactly(datasets) -> None:
    loader = Loader(datasets[501], global_batch=50, seed=1)
    first, again, second = (ids(loader.batches(epoch, first=0, last=1, of=1)) for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    assert ids(Loader(datasets[501], global_batch=50, seed=2).batches(0, first=0, last=1, of=1)) != first
    assert first[0][:5] == [280, 102, 181, 64, 192]  # never changes: runs depend on it


def test_without_shuffling_the_order_is_that_of_the_part(datasets) -> None:
    batches = ids(Loader(datasets[17], global_batch=5, shuffle=False).batches(3, first=0, last=1, of=1))
    assert batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16]]


def test_columns_of_a_record_stay_together(datasets) -> None:
    for batch in Loader(datasets[501], global_batch=64, seed=3).batches(0, first=0, last=1, of=1):
        assert batch["x"].dtype == np.float32
        assert (batch["x"] == batch["id"]).all()


def test_the_last_short_batch_can_be_dropped(datasets) -> None:
    loader = Loader(datasets[17], global_batch=5, drop_last=True)
    batches = ids(loader.batches(0, first=0, last=1, of=1))
    assert [len(batch) for batch in batches] == [5, 5, 5]
    assert loader.steps_per_epoch == 3
    assert loader.count == 17


def test_a_worker_may_have_nothing_of_a_short_batch_and_still_gets_every_step(datasets) -> None:
    loader = Loader(datasets[17], global_batch=16)
    assert [len(batch) for batch in ids(loader.batches(0, first=0, last=1, of=8))] == [2, 0]
    assert [len(batch) for batch in ids(loader.batches(0, first=7, last=8, of=8))] == [2, 1]


def test_parts_are_loaded_without_a_record_of_the_other(datasets) -> None:
    split = Split({"train": 0.8, "held_out": 0.2}, seed=5)
    seen = {}
    for name in split.parts:
        loader = Loader(datasets[501], split.part(name, 501), global_batch=32, seed=9)
        seen[name] = [record for batch in ids(loader.batches(2, first=0, last=1, of=1)) for record in batch]
        assert len(seen[name]) == loader.count
    assert len(seen["train"]) == 401
    assert sorted(seen["train"] + seen["held_out"]) == list(range(501))


def test_a_batch_may_be_changed_without_changing_the_data(datasets) -> None:
    loader = Loader(datasets[100], global_batch=10, shuffle=False)
    for batch in loader.batches(0, first=0, last=1, of=1):
        batch["id"][:] = -1
    assert ids(loader.batches(0, first=0, last=1, of=1))[9] == list(range(90, 100))


def test_batches_larger_than_a_window_and_windows_larger_than_a_batch_agree(tmp_path: Path) -> None:
    count = 20_011
    dataset = prepare(ArraySource({"id": np.arange(count)}), FolderStore(tmp_path))
    orders = [
        np.concatenate([b["id"] for b in Loader(dataset, global_batch=size, seed=4).batches(1, first=0, last=1, of=1)])
        for size in (7, 1000, 9000, count)
    ]
    for order in orders[1:]:
        assert (order == orders[0]).all()


def test_closing_the_iterator_ends_its_thread(datasets) -> None:
    batches = Loader(datasets[501], global_batch=1, parallel=1).batches(0, first=0, last=1, of=1)
    next(batches)
    assert loader_threads() == [], "the first batch is made without one"
    next(batches)
    assert len(loader_threads()) == 1
    batches.close()
    assert loader_threads() == []


def test_the_end_of_an_epoch_ends_its_thread(datasets) -> None:
    assert len(ids(Loader(datasets[501], global_batch=100).batches(0, first=0, last=1, of=1))) == 6
    assert loader_threads() == []


def test_iterations_do_not_disturb_each_other(datasets) -> None:
    loader = Loader(datasets[501], global_batch=10, seed=6)
    expected = [ids(loader.batches(epoch, first=0, last=1, of=1)) for epoch in (0, 1)]
    one, other = (loader.batches(epoch, first=0, last=1, of=1) for epoch in (0, 1))
    together = [(a["id"].tolist(), b["id"].tolist()) for a, b in zip(one, other, strict=True)]
    assert [list(column) for column in zip(*together, strict=True)] == expected


def test_a_process_opens_a_loader_from_plain_data(tmp_path: Path) -> None:
    dataset = prepare(ArraySource({"id": np.arange(50)}), FolderStore(tmp_path))
    split = Split({"train": 40, "held_out": 10}, seed=2)
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode({"dataset": dataset.artifact, "split": split}))
    loader = open_loader(store=str(tmp_path), part="held_out", global_batch=4, seed=3, **plain)
    direct = Loader(dataset, split.part("held_out", 50), global_batch=4, seed=3)
    assert ids(loader.batches(1, first=0, last=1, of=2)) == ids(direct.batches(1, first=0, last=1, of=2))
    assert open_loader(store=str(tmp_path), dataset=dataset.artifact, global_batch=4).count == 50


def test_a_part_without_a_split_and_wrong_plain_data_are_refused(tmp_path: Path) -> None:
    artifact = prepare(ArraySource({"id": np.arange(5)}), FolderStore(tmp_path)).artifact
    with pytest.raises(DataError, match="'train' was asked for, and no split"):
        open_loader(store=str(tmp_path), dataset=artifact, part="train", global_batch=4)
    with pytest.raises(DataError, match="does not describe Artifact"):
        open_loader(store=str(tmp_path), dataset={"digest": 3}, global_batch=4)
    with pytest.raises(DataError, match="does not describe Split"):
        open_loader(store=str(tmp_path), dataset=artifact, split={"parts": 3}, part="train", global_batch=4)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"global_batch": 0}, "global_batch=0"),
        ({"global_batch": 4, "parallel": -1}, "parallel=-1"),
        ({"global_batch": 18, "drop_last": True}, "17 records, less than one global batch of 18"),
        ({"global_batch": 4, "seed": -1}, "seed is -1"),
        ({"global_batch": 4, "part": Split({"a": 0.5, "b": 0.5}).part("a", 18)}, "18 records; the dataset has 17"),
    ],
)
def test_options_out_of_range_are_refused(datasets, options, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Loader(datasets[17], **options)


@pytest.mark.parametrize(
    "asked", [{"first": 1, "last": 1, "of": 2}, {"first": 0, "last": 3, "of": 2}, {"first": -1, "last": 1, "of": 2}]
)
def test_workers_out_of_range_are_refused_at_once(datasets, asked) -> None:
    with pytest.raises(DataError, match="0 <= first < last <= of"):
        Loader(datasets[17], global_batch=4).batches(0, **asked)
    with pytest.raises(DataError, match="an epoch has 5"):
        Loader(datasets[17], global_batch=4).batches(0, first=0, last=1, of=1, start=6)


def test_no_more_than_the_first_batches_are_needed_to_begin(datasets) -> None:
    assert len(list(islice(Loader(datasets[501], global_batch=3).batches(0, first=0, last=1, of=1), 2))) == 2
