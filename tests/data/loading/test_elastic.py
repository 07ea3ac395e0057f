from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_records import TRANSFORMS, global_batch

from ganglion.data import Loader
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.certificate import Certificate

WORLDS = (1, 2, 5, 3, 8, 1)
BATCH = 37  # divides nothing here
SEED = 11


def loader(dataset: PreparedDataset, **options) -> Loader:
    return Loader(dataset, global_batch=BATCH, seed=SEED, transforms=TRANSFORMS, **options)


def epoch_of(dataset: PreparedDataset, epoch: int, **options) -> tuple[list[str], list[int]]:
    """Digests of all global batches, and the ids delivered, on one rank."""
    one = loader(dataset, parallel=0, **options)
    one.epoch = epoch
    batches = list(one)
    return [global_batch([batch]) for batch in batches], np.concatenate([batch.ids for batch in batches]).tolist()


def deliver(
    dataset: PreparedDataset, phases: list[tuple[int, int]], state: dict, **options
) -> tuple[list[str], list[int], Certificate]:
    """Deliver so many steps on so many ranks, phase after phase; each begins from the state of the one before."""
    digests: list[str] = []
    delivered: list[int] = []
    total = Certificate()
    for world, steps in phases:
        ranks = [loader(dataset, rank=rank, world=world, **options) for rank in range(world)]
        for rank in ranks:
            rank.load_state_dict(state)
        pieces = [list(islice(rank, steps)) for rank in ranks]
        assert len({len(of_rank) for of_rank in pieces}) == 1, "every rank has as many steps as every other"
        for step in zip(*pieces, strict=True):
            digests.append(global_batch(list(step)))
            delivered += np.concatenate([piece.ids for piece in step]).tolist()
        states = [rank.state_dict() for rank in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
        for rank in ranks:
            total = total + rank.delivered + rank.left_out
            rank.close()
    return digests, delivered, total


@settings(max_examples=12)
@given(data=st.data())
def test_the_batches_are_the_same_whatever_the_number_of_ranks_and_threads(packed, data) -> None:
    epoch = data.draw(st.integers(0, 5))
    expected, ids = epoch_of(packed, epoch)
    steps = len(expected)
    cuts = sorted(data.draw(st.lists(st.integers(0, steps), min_size=len(WORLDS) - 1, max_size=len(WORLDS) - 1)))
    worlds = data.draw(st.just(WORLDS) | st.permutations(WORLDS))
    ends = [0, *cuts, steps]
    phases = [(world, end - begin) for world, begin, end in zip(worlds, ends, ends[1:], strict=False)]
    options = {
        "parallel": data.draw(st.integers(0, 4)),
        "logical_workers": data.draw(st.sampled_from([None, 8, 11])),
        "memory": data.draw(st.sampled_from([2**20, 2**26])),
    }
    state = loader(packed).state_dict() | {"epoch": epoch}
    digests, delivered, certificate = deliver(packed, phases, state, **options)
    assert digests == expected
    assert sorted(delivered) == sorted(ids)
    assert len(set(delivered)) == len(delivered)
    assert certificate == loader(packed).expected(epoch)


def test_the_batches_are_the_same_on_processes(packed, children) -> None:
    expected, ids = epoch_of(packed, 0)
    phases = [(1, 5), (2, len(expected) - 5)]
    digests, delivered, certificate = deliver(
        packed, phases, loader(packed).state_dict(), workers="processes", parallel=2
    )
    assert digests == expected
    assert delivered == ids
    assert certificate == loader(packed).expected(0)


def test_an_order_in_blocks_is_as_elastic(packed) -> None:
    blocks = {"blocks": 16, "window": 100}
    expected, ids = epoch_of(packed, 2, **blocks)
    assert expected != epoch_of(packed, 2)[0]
    state = loader(packed, **blocks).state_dict() | {"epoch": 2}
    digests, delivered, certificate = deliver(packed, [(3, 7), (1, 1), (2, len(expected) - 8)], state, **blocks)
    assert digests == expected
    assert delivered == ids
    assert certificate == loader(packed, **blocks).expected(2)


def test_unequal_ranks_have_the_same_batches(packed) -> None:
    expected, _ = epoch_of(packed, 0)
    speeds = (1.0, 3.0, 0.2)
    ranks = [list(loader(packed, rank=rank, world=3, logical_workers=20, speeds=speeds)) for rank in range(3)]
    assert [global_batch(list(step)) for step in zip(*ranks, strict=True)] == expected
    sizes = [sum(map(len, of_rank)) for of_rank in ranks]
    assert sizes[1] > 2 * sizes[0] > 2 * sizes[2]


def test_what_is_corrupt_when_prepared_or_loaded_is_missing_and_nothing_else(packed) -> None:
    assert packed.manifest.set_aside == 30
    _, ids = epoch_of(packed, 0)
    tokens = packed.slice(0, packed.count)["tokens"]
    good = (tokens[:, 3] % 100 != 77) & (tokens[:, 0] % 3 != 0)
    assert 0 < (~good).sum() < packed.count
    assert sorted(ids) == sorted(packed.ids(np.flatnonzero(good)).tolist())
