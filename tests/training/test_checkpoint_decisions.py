"""What is decided about checkpoints without touching any: how often, which are kept, how a state is taken apart."""

import math

import msgspec
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ConfigurationError, IntegrityError
from ganglion.training.checkpoints import Checkpointing, Manifest, Progress, Recipe
from ganglion.training.checkpoints import manifest as manifests
from ganglion.training.checkpoints.cadence import failures_apart, interval
from ganglion.training.checkpoints.image import PAGE, IdleMemory, Image, lay_out
from ganglion.training.checkpoints.retention import kept
from ganglion.training.checkpoints.skeleton import put_together, take_apart

FREE = {"shortest": 0.0, "longest": math.inf}


def overhead(every, cost, apart):
    """Expected seconds for each second of work when failures come as a Poisson process (Daly 2006, equation 20)."""
    return apart * math.expm1((every + cost) / apart) / every


@given(st.floats(0.001, 60), st.floats(600, 1e6))
def test_no_other_interval_wastes_notably_less(cost, apart):
    best = interval(cost, apart, **FREE)
    for factor in (0.5, 0.8, 1.25, 2):
        waste = overhead(best, cost, apart) - 1
        assert waste <= (overhead(best * factor, cost, apart) - 1) * 1.001


@given(st.floats(0, 1e4), st.floats(1, 1e7), st.floats(0, 100), st.floats(100, 1e4))
def test_the_interval_keeps_to_its_bounds(cost, apart, shortest, longest):
    assert shortest <= interval(cost, apart, shortest=shortest, longest=longest) <= longest


def test_what_is_seen_outweighs_what_was_expected():
    assert failures_apart(86_400, 0, 0) == 86_400
    assert failures_apart(86_400, 30 * 86_400, 0) > 20 * 86_400
    assert failures_apart(86_400, 100 * 60, 100) < 1_000


@given(
    st.dictionaries(st.integers(0, 50), st.dictionaries(st.sampled_from(["loss", "accuracy"]), st.floats(0, 1))),
    st.integers(1, 4),
    st.sampled_from([None, "loss", "accuracy"]),
)
def test_the_newest_and_the_best_stay(metrics, last, best):
    stay = kept(metrics, Checkpointing(folder="f", keep_last=last, keep_best=best))
    assert stay <= metrics.keys()
    assert set(sorted(metrics)[-last:]) <= stay
    assert len(stay) <= last + (best is not None)
    if best and (values := [found[best] for found in metrics.values() if best in found]):
        extreme = min(values) if best == "loss" else max(values)
        assert any(metrics[step].get(best) == extreme for step in stay)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_last": 0}, "keep_last is 0"),
        ({"shortest": 9, "longest": 3}, "shortest is 9 s"),
        ({"failures_apart": 0}, "failures_apart is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        Checkpointing(folder="f", **fields)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["one", "two"]), plain))
def test_plain_data_comes_back_as_it_was(state):
    rest, tensors = take_apart(state)
    assert tensors == {}
    assert put_together(rest, {}) == state


shapes = st.lists(st.integers(0, 3), max_size=4)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])


@given(st.lists(st.tuples(shapes, dtypes, st.randoms(use_true_random=False)), min_size=1, max_size=6))
def test_tensors_of_any_layout_come_back_as_they_were(forms):
    given_tensors = []
    for shape, dtype, random in forms:
        tensor = (torch.rand(shape) * 100).to(dtype)
        order = list(range(tensor.dim()))
        random.shuffle(order)
        given_tensors.append(tensor.permute(order))
    rest, tensors = take_apart({"part": given_tensors, "twice": {0: given_tensors[0], "0": given_tensors[0]}})
    read = {}
    for part, found in tensors.items():
        layout = lay_out(found)
        memory = IdleMemory()
        memory.grow(layout.room)
        image = Image(layout, memory.cut([layout.room])[0])
        image.take(found)
        data = image.finish()
        assert len(data) % PAGE == 0
        read[part] = safetensors.torch.load(bytes(data[: layout.size]))
    again = put_together(rest, read)
    for ours, theirs in zip(given_tensors, again["part"], strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.numel() < 2 or ours.stride() == theirs.stride()
    assert torch.equal(again["twice"][0], again["twice"]["0"])


def test_a_state_that_refers_to_nothing_is_damaged():
    rest, _ = take_apart({"part": torch.zeros(2)})
    with pytest.raises(IntegrityError, match="not there"):
        put_together(rest, {})


@given(st.binary(max_size=30))
def test_bytes_that_are_no_manifest_are_damaged(data):
    with pytest.raises(IntegrityError):
        manifests.decode(data)


def test_another_format_is_refused_and_no_damage():
    manifest = Manifest(
        format=manifests.FORMAT + 1,
        progress=Progress(step=1, epoch=0, batch=1),
        recipe=Recipe(plan={}, arithmetic={}),
        model=(),
        files=(),
        saved=0.0,
    )
    with pytest.raises(ConfigurationError, match=f"format {manifests.FORMAT + 1}"):
        manifests.decode(manifests.encode(manifest))
    assert msgspec.structs.replace(manifest, format=manifests.FORMAT) == manifests.decode(
        manifests.encode(msgspec.structs.replace(manifest, format=manifests.FORMAT))
    )
