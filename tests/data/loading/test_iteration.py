from __future__ import annotations

import json
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from loading_records import TRANSFORMS, Away, Jitter, Keep, Strict, digest

from ganglion.core.errors import DataError, OutageError
from ganglion.data import Loader, Split
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.loader import MASK
from ganglion.data.order import Order
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.transforms.normalise import Scale


def loader(dataset: PreparedDataset, **options) -> Loader:
    return Loader(dataset, **{"global_batch": 50, "seed": 4, **options})


def test_each_iteration_is_an_epoch_with_every_record_once(packed) -> None:
    one = loader(packed)
    epochs = [np.concatenate([batch.ids for batch in one]).tolist() for _ in range(3)]
    everything = sorted(packed.ids(np.arange(packed.count)).tolist())
    assert [sorted(epoch) for epoch in epochs] == [everything] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert (one.epoch, one.step) == (3, 0)
    assert one.delivered == one.expected(2)


def test_who_breaks_off_goes_on_at_the_next_batch(packed) -> None:
    whole = [digest(batch) for batch in loader(packed)]
    one = loader(packed)
    found = [digest(batch) for batch in islice(one, 3)]
    for batch in one:
        found.append(digest(batch))
        if one.step == 10:
            break
    assert one.state_dict()["step"] == 10
    found += [digest(batch) for batch in one]
    assert found == whole


def test_a_loader_that_is_left_within_an_epoch_leaves_no_thread(packed) -> None:
    before = set(threading.enumerate())
    iteration = iter(loader(packed, global_batch=5, parallel=3, transforms=TRANSFORMS))
    next(iteration)
    iteration.close()
    assert set(threading.enumerate()) == before


def test_an_earlier_iteration_cannot_go_on_once_another_began(packed) -> None:
    one = loader(packed)
    first, second = iter(one), iter(one)
    next(second)
    with pytest.raises(DataError, match="Another iteration of this loader has begun"):
        next(first)
    assert one.step == 1


def test_the_state_is_small_plain_and_continues_exactly(packed) -> None:
    one = loader(packed, seed=2**64 - 1, transforms=TRANSFORMS)
    list(one)
    list(islice(one, 7))
    state = json.loads(json.dumps(one.state_dict()))
    largest = state | {"epoch": 2**64 - 1, "step": 2**62, "global_batch": 2**62}
    assert len(json.dumps(largest, separators=(",", ":"))) <= 256
    rest = [digest(batch) for batch in one]
    other = loader(packed, seed=2**64 - 1, transforms=TRANSFORMS)
    other.load_state_dict(state)
    assert [digest(batch) for batch in other] == rest
    assert len(rest) == one.steps_per_epoch - 7


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next(packed) -> None:
    one = loader(packed)
    list(islice(one, one.steps_per_epoch))
    assert one.state_dict()["step"] == one.steps_per_epoch
    assert len(list(one)) == one.steps_per_epoch
    assert one.epoch == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 5}, "another seed"),
        ({"global_batch": 51}, "another global_batch"),
        ({"shuffle": False}, "another order"),
        ({"drop_last": True}, "another order"),
        ({"blocks": 10}, "another order"),
        ({"transforms": (Strict(),)}, "another transforms"),
        ({"part": Split({"a": 0.5, "b": 0.5})}, "another part"),
    ],
)
def test_a_state_of_another_loader_is_refused_with_what_differs(packed, options, named: str) -> None:
    if "part" in options:
        options = {"part": options["part"].part("a", packed)}
    with pytest.raises(DataError, match=named):
        loader(packed, **options).load_state_dict(loader(packed).state_dict())


def test_a_state_of_other_data_or_that_is_none_is_refused(packed) -> None:
    one = loader(packed)
    with pytest.raises(DataError, match="another dataset"):
        one.load_state_dict(one.state_dict() | {"dataset": "0" * 12})
    with pytest.raises(DataError, match="is not the state of a loader"):
        one.load_state_dict({"epoch": 1})
    with pytest.raises(DataError, match="an epoch has"):
        one.load_state_dict(one.state_dict() | {"step": one.steps_per_epoch + 1})


def test_records_that_fail_are_told_of_in_order_and_counted(packed) -> None:
    def bad(**options) -> list[BadRecord]:
        told: list[BadRecord] = []
        one = loader(packed, transforms=(Strict(), Keep()), set_aside=told.append, **options)
        left = sum(50 - len(batch) for batch in islice(one, one.steps_per_epoch - 1))
        list(one)
        assert one.left_out.count >= max(left, len(told))
        assert one.delivered + one.left_out == one.expected(0)
        return told

    told = bad(parallel=0)
    assert told == bad(parallel=3, memory=2**20)
    tokens = packed.slice(0, packed.count)["tokens"]
    failing = packed.ids(np.flatnonzero(tokens[:, 3] % 100 == 77))
    assert sorted(record.id for record in told) == sorted(failing.tolist())
    assert {(record.stage, record.reason) for record in told} == {("strict", "ValueError: 77 is not a token")}
    assert all(record.payload and packed.artifact.digest in record.source for record in told)


def test_one_bad_record_too_many_is_an_error(packed) -> None:
    def refuse(record: BadRecord) -> None:
        raise DataError(f"too many: {record}")

    with pytest.raises(DataError, match=r"too many.*77 is not a token"):
        list(loader(packed, transforms=(Strict(),), set_aside=refuse))


def test_training_gets_whole_slices_with_a_mask(packed) -> None:
    one = loader(packed, transforms=TRANSFORMS, logical_workers=3)
    direct = list(one)
    for place, columns in enumerate(one.batches(0, first=0, last=1, of=1)):
        size = min(50, packed.count - 50 * place)
        assert {len(column) for column in columns.values()} == {size}
        assert not columns["tokens"][~columns[MASK]].any()
        assert (columns["tokens"][columns[MASK]] == direct[place].columns["tokens"]).all()
    assert (~columns[MASK]).any()
    halves = [one.batches(0, first=first, last=first + 1, of=2) for first in range(2)]
    for pieces, columns in zip(zip(*halves, strict=True), one.batches(0, first=0, last=1, of=1), strict=True):
        assert (np.concatenate([piece["tokens"] for piece in pieces]) == columns["tokens"]).all()


def test_scaling_while_gathering_is_scaling_afterwards(packed) -> None:
    plain = list(loader(packed))
    scaled = loader(packed, transforms=(Scale("tokens", 0, 1000),))
    assert MASK not in next(scaled.batches(0, first=0, last=1, of=1))
    for batch, original in zip(scaled, plain, strict=True):
        expected = original.columns["tokens"].astype(np.float32) * np.float32(1 / 1000)
        assert (batch.columns["tokens"] == expected).all()
        assert batch.columns["tokens"].ctypes.data % 4 == 0


def test_batches_that_are_kept_stay_what_they_are(packed) -> None:
    one = loader(packed, global_batch=7, memory=2**20)
    batches = list(one)
    assert len({batch.columns["tokens"].ctypes.data for batch in batches}) == len(batches)
    again = [digest(batch) for batch in loader(packed, global_batch=7)]
    assert [digest(batch) for batch in batches] == again


def test_memory_of_batches_that_are_gone_is_used_again(packed) -> None:
    one = loader(packed, global_batch=7, memory=2**20)
    for _ in range(3):
        for batch in one:
            del batch
    assert one._pool.made < 30  # of more than a hundred pieces


def test_an_outage_is_raised_once_and_the_next_call_goes_on_at_the_same_batch(packed, tmp_path: Path) -> None:
    file = tmp_path / "away"
    transforms = (Away(str(file)), Jitter())
    expected = [digest(batch) for batch in loader(packed, transforms=transforms)]
    file.touch()
    one = loader(packed, transforms=transforms, parallel=2)
    found = []
    with pytest.raises(OutageError, match="thesaurus"):
        found.extend(digest(batch) for batch in one)
    assert 0 < len(found) < len(expected)
    with pytest.raises(OutageError):
        found.extend(digest(batch) for batch in one)
    file.unlink()
    found += [digest(batch) for batch in one]
    assert found == expected


@pytest.mark.parametrize("records", [10**4, 10**9])
def test_going_on_at_ninety_percent_maps_no_more_positions_than_beginning(monkeypatch, records: int) -> None:
    from ganglion.data.loading.batch_plan import BatchPlan, Span
    from ganglion.data.parts.part import whole

    mapped = []
    at = Order.at

    def counted(order: Order, epoch: int, positions):
        mapped.append(positions.size)
        return at(order, epoch, positions)

    monkeypatch.setattr(Order, "at", counted)
    plan = BatchPlan(whole(records), Order(records, 3), 64)
    steps = next(plan.epoch(5, Span(0, 1, 1), plan.steps * 9 // 10))
    assert len(steps.ends) == 1
    assert sum(mapped) <= 2 * 64  # of the order, and of the part, which is in its own order here


def test_a_loader_that_cannot_work_is_refused(packed) -> None:
    for options, problem in (
        ({"rank": 2, "world": 2}, "Rank 2 of 2"),
        ({"world": 3, "logical_workers": 2}, "2 logical workers cannot occupy 3 ranks"),
        ({"workers": "fibres"}, "workers='fibres'"),
        ({"world": 2, "speeds": [1.0]}, "a speed for each rank"),
        ({"blocks": 10, "window": 5}, "a window a block"),
        ({"memory": 10_000}, "give memory="),
    ):
        with pytest.raises(DataError, match=problem):
            loader(packed, **options)
