import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ganglion.training.collective import Single, is_finite
from ganglion.training.gradients import Gradients
from ganglion.training.memory import Slots
from ganglion.training.statistics import RunningStatistics

MODEL = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5)).double()


def gradient_in_slices(model, inputs, targets, sizes, weigh=len):
    parameters = list(model.parameters())
    gradients = Gradients(parameters)
    vector = torch.zeros(gradients.length, dtype=gradients.dtype)
    gradients.show(gradients.views(vector))
    for part, labels in zip(inputs.split(sizes), targets.split(sizes), strict=True):
        if len(part):
            (nn.functional.cross_entropy(model(part), labels) * weigh(part)).backward()
    vector.div_(sum(sizes))
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


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
    sliced = gradient_in_slices(copy.deepcopy(model), inputs, targets, sizes)
    assert torch.allclose(sliced, gradient_at_once(model, inputs, targets), atol=1e-12)


def test_averaging_without_the_true_counts_would_be_seen():
    inputs, targets = records(10)
    wrong = gradient_in_slices(copy.deepcopy(MODEL), inputs, targets, [7, 3], weigh=lambda _part: 5)
    assert not torch.allclose(wrong, gradient_at_once(copy.deepcopy(MODEL), inputs, targets), atol=1e-3)


def test_gradients_are_views_of_a_vector_in_the_layout_of_their_parameters():
    model = nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last)
    gradients = Gradients(list(model.parameters()), statistics=2)
    slots = Slots(3, gradients.length, gradients.dtype)
    gradients.show(gradients.views(slots[1]))
    model(torch.randn(2, 8, 5, 5)).sum().backward()
    assert model.weight.grad.stride() == model.weight.stride()
    assert slots[1][: 8 * 4 * 9].abs().sum() > 0
    assert slots[0].abs().sum() == slots[2].abs().sum() == gradients.statistics(slots[1]).abs().sum() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_noticed(value):
    slots = Slots(1, 5, torch.float32)
    slots[0][3] = value
    assert not Single(slots).reduce([range(1)], b"", lambda _notes: 2.0).finite


def test_numbers_whose_sum_is_too_large_are_finite_nevertheless():
    assert is_finite(torch.full((10,), 3e38))


def test_statistics_are_the_mean_over_the_records_and_nothing_before_the_commit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3))
    inputs = torch.randn(12, 3)
    statistics = RunningStatistics(model, lambda: model(inputs))
    before = [buffer.clone() for buffer in model.buffers()]
    assert statistics.length == 3 + 3 + 1
    total = torch.zeros(statistics.length)
    for part in inputs.split([8, 4]):
        added = torch.zeros(statistics.length)
        with statistics.slice(added, len(part)):
            model(part)
        total += added
    statistics.restore()
    assert all(torch.equal(now, was) for now, was in zip(model.buffers(), before, strict=True))
    statistics.commit(total / 12)
    assert torch.allclose(model[0].running_mean, 0.1 * inputs.mean(0), atol=1e-6)
    assert model[0].num_batches_tracked == 1


def test_buffers_that_a_model_never_changes_are_left_out():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((4, 4), -torch.inf))

        def forward(self, inputs):
            return inputs

    model = Masked()
    assert RunningStatistics(model, lambda: model(torch.zeros(1))).length == 0
