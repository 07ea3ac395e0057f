"""How requests are cut and shards are placed; pure."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ConfigurationError
from ganglion.serving import frames, wire
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.prediction import Prediction
from ganglion.serving.gateway.shard_plan import SHORT, plan_shards, together
from ganglion.serving.parts import hash_parts
from ganglion.serving.payload import Payload
from ganglion.serving.sharding import HASH, RANGE, Sharding, owners

WIDTH = 3


def square(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64).sum(axis=1) ** 2


def arrived(payload: Payload) -> np.ndarray:
    """What a replica reads of a payload that was sent to it."""
    ((header, body),) = frames.FrameReader().feed(b"".join(payload.encode(1, [])))
    return wire.tensors_of(wire.decode_batch(header).tensors, body)["x"]


@given(
    rows=st.integers(1, 60),
    shards=st.integers(1, 7),
    max_batch=st.integers(1, 9),
    by=st.sampled_from([RANGE, HASH, "user"]),
    seed=st.integers(0, 9),
    merged=st.booleans(),
    data=st.data(),
)
def test_any_cut_gives_what_one_server_gives(
    rows: int, shards: int, max_batch: int, by: str, seed: int, merged: bool, data: Any
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 5, (rows, WIDTH)).astype(np.int32)
    numbers = random.integers(0, rows, rows) if by == "user" else None
    sharding = Sharding(shards=shards, by="m:split" if by == "user" else by, merge="m:merge" if merged else "")
    plan = plan_shards(Payload(tensors={"x": x}), sharding, max_batch, numbers)
    results: list[Any] = []
    parts = Prediction(results.append, 0.0, 1.0).add_cuts(plan.cuts)
    for part in data.draw(st.permutations(parts)):  # in whatever order shards answer
        given_rows = arrived(part.payload)
        assert 1 <= len(given_rows) <= max_batch
        assert [list(x[part.instance(row)]) for row in range(len(given_rows))] == given_rows.tolist()
        part.prediction.complete(part, {"y": square(given_rows)})
    (result,) = results
    assert sum(plan.sizes) == rows
    if not merged or by == RANGE:
        np.testing.assert_array_equal(result["y"], square(x))
    else:
        which = hash_parts([x], rows, shards) if numbers is None else numbers
        wanted = [square(x[which == part]) for part in np.unique(which)]
        assert plan.sizes == [len(one) for one in wanted]
        np.testing.assert_array_equal(result["y"], np.concatenate(wanted))
    if by == HASH:
        shard_of = {tuple(x[part.instance(row)]): part.shard for part in parts for row in range(part.payload.rows)}
        for part in parts:
            assert {shard_of[tuple(row)] for row in arrived(part.payload)} == {part.shard}, "equal keys, one shard"


@pytest.mark.parametrize("by", [RANGE, HASH])
def test_shards_get_about_equally_much_and_neighbours_are_not_copied(by: str) -> None:
    x = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32)
    plan = plan_shards(Payload(tensors={"x": x}), Sharding(shards=4, by=by), 32)
    counts = Counter[int | None]()
    for cut in plan.cuts:
        counts[cut.shard] += cut.payload.rows
        if by == RANGE:
            assert np.shares_memory(cut.payload.tensors["x"], x)
        else:
            assert not cut.payload.tensors, "copied only when it is sent"
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) < 1.1 * min(counts.values())


def test_a_hash_is_of_the_value_alone() -> None:
    keys = np.array([0.0, -0.0, 1.5, 1.5, -7.25], np.float32)
    parts = hash_parts([keys], 5, 1000)
    assert parts[0] == parts[1], "zero has one value"
    assert parts[2] == parts[3]
    code = (
        "import numpy as np; from ganglion.serving.parts import hash_parts; "
        "print(hash_parts([np.array([0.0, -0.0, 1.5, 1.5, -7.25], np.float32)], 5, 1000).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout.strip() == str(parts.tolist()), "the same in every process"
    wide = np.arange(13 * 11, dtype=np.uint8).reshape(11, 13)
    alone = [int(hash_parts([wide[row : row + 1]], 1, 1000)[0]) for row in range(11)]
    assert hash_parts([wide], 11, 1000).tolist() == alone
    assert len(set(alone)) > 5


def test_a_key_is_an_input_of_its_own() -> None:
    key = np.array([5, 6, 5, 6, 5])
    payload = Payload(tensors={"x": np.arange(10).reshape(5, 2), "key": key})
    plan = plan_shards(payload, Sharding(shards=16, by=HASH, key="key"), 8)
    rows = {cut.shard: set(range(5)[cut.rows] if isinstance(cut.rows, slice) else cut.rows) for cut in plan.cuts}
    assert sorted(map(sorted, rows.values())) == [[0, 2, 4], [1, 3]]
    with pytest.raises(RequestError, match="split by the input 'id'; the model has x, key"):
        plan_shards(payload, Sharding(by=HASH, key="id"), 8)


names = st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True)


@given(members=names, shards=st.integers(1, 40), data=st.data())
def test_shards_are_shared_evenly_and_stay_where_they_are(members: list[int], shards: int, data: Any) -> None:
    ids = [f"serve-m-1-ab/replica-{member}/0" for member in members]
    placed = owners(shards, tuple(ids))
    assert len(placed) == shards
    assert max(Counter(placed).values()) <= -(-shards // len(ids))
    assert owners(shards, tuple(data.draw(st.permutations(ids)))) == placed, "whoever asks"
    again = data.draw(st.integers(0, len(ids) - 1))
    renewed = [f"{id_[:-1]}1" if number == again else id_ for number, id_ in enumerate(ids)]
    assert [id_[:-1] for id_ in owners(shards, tuple(renewed))] == [id_[:-1] for id_ in placed], "a new attempt"


def test_few_shards_move_when_a_replica_goes() -> None:
    ids = tuple(f"job/replica-{member}/0" for member in range(8))
    before, after = owners(64, ids), owners(64, ids[:-1])
    moved = sum(old != new for old, new in zip(before, after, strict=True) if old != ids[-1])
    assert moved <= 16, "modulo would move nearly all 56"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "rows"}, "cannot be split by 'rows'; allowed: range, hash, or a function"),
        ({"key": "id"}, "only used to split by hash; this splits by range"),
        ({"merge": "merge"}, "give it as module:function"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Sharding(**fields)


@given(
    rows=st.integers(1, 5000),
    width=st.integers(1, 500),
    shards=st.integers(1, 8),
    max_batch=st.integers(1, 64),
    each=st.floats(1e-7, 1e-2),
)
def test_several_batches_go_together_only_where_they_are_short_small_and_many(
    rows: int, width: int, shards: int, max_batch: int, each: float
) -> None:
    payload = Payload(tensors={"x": np.zeros((rows, width), np.float32)})
    most = together(payload, Sharding(shards=shards), max_batch, lambda count: each * count)
    assert most % max_batch == 0
    if most > max_batch:
        assert each * most <= SHORT
        assert most * width * 4 <= 2**18
        assert most * shards * 8 <= rows
        assert most <= 32 * max_batch


def test_a_fast_model_is_given_many_batches_at_a_time() -> None:
    payload = Payload(tensors={"x": np.zeros((100_000, 78), np.float32)})
    assert together(payload, Sharding(shards=2), 32, lambda count: 4e-6 * count) == 26 * 32
    assert together(payload, Sharding(shards=2), 32, lambda count: 2e-5 * count) == 15 * 32
    assert together(payload, Sharding(shards=2), 32, lambda count: 2e-4 * count) == 32
    assert together(Payload(images=[b"x"] * 1000), Sharding(shards=2), 32, lambda _count: 0.0) == 32
