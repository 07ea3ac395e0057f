import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ganglion.training.gradients import GradientBuffer

MODEL = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5)).double()


def gradient_in_slices(model, inputs, targets, sizes, weigh=len):
    buffer = GradientBuffer(list(model.parameters()))
    for part, labels in zip(inputs.split(sizes), targets.split(sizes), strict=True):
        if len(part):
            buffer.add(nn.functional.cross_entropy(model(part), labels), weigh(part))
    buffer.finish()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), buffer


def gradient_at_once(model, inputs, targets):
    nn.functional.cross_entropy(model(inputs), targets).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def records(count):
    generator = torch.Generator().manual_seed(count)
    return (
        torch.randn(count, 2, 6, 6, dtype=torch.float64, generator=generator),
        torch.randint(0, 5, (count,), generator=generator),
    )


@settings(max_examples=20)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any), st.booleans())
def test_slices_of_any_size_give_the_gradient_of_the_whole_batch(sizes, channels_last):
    model = copy.deepcopy(MODEL)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    inputs, targets = records(sum(sizes))
    sliced, buffer = gradient_in_slices(copy.deepcopy(model), inputs, targets, sizes)
    assert torch.allclose(sliced, gradient_at_once(model, inputs, targets), atol=1e-12)
    assert buffer.records == sum(sizes)


def test_averaging_without_the_true_counts_would_be_seen():
    inputs, targets = records(10)
    wrong, _ = gradient_in_slices(copy.deepcopy(MODEL), inputs, targets, [7, 3], weigh=lambda _part: 1)
    assert not torch.allclose(wrong, gradient_at_once(copy.deepcopy(MODEL), inputs, targets), atol=1e-3)


def test_gradients_are_views_of_one_buffer_in_the_layout_of_their_parameters():
    model = nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last)
    buffer = GradientBuffer(list(model.parameters()))
    model(torch.randn(2, 8, 5, 5)).sum().backward()
    assert model.weight.grad.stride() == model.weight.stride()
    assert model.weight.grad.untyped_storage().data_ptr() == buffer.flat.untyped_storage().data_ptr()
    assert buffer.flat.abs().sum() > 0
    buffer.clear()
    assert model.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_noticed(value):
    model = nn.Linear(2, 1)
    buffer = GradientBuffer(list(model.parameters()))
    buffer.add(model(torch.full((3, 2), value)).mean(), 3)
    buffer.finish()
    assert not buffer.finite


def test_stopping_is_asked_for_in_the_reduced_buffer():
    buffer = GradientBuffer(list(nn.Linear(2, 1).parameters()))
    assert not buffer.stopping
    buffer.ask_to_stop()
    assert buffer.stopping
