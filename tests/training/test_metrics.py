import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganglion.training.metrics import means, measure, merge


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_measures_do_not_depend_on_how_records_are_cut(sizes, cut):
    torch.manual_seed(sum(sizes))
    outputs, targets = torch.randn(sum(sizes), 4), torch.randint(0, 4, (sum(sizes),))
    losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    parts = [
        measure(("accuracy", "loss"), o, t, float(each.mean()))
        for o, t, each in zip(outputs.split(sizes), targets.split(sizes), losses.split(sizes), strict=True)
    ]
    whole = means(merge([merge(parts[:cut]), merge(parts[cut:])]))
    assert whole["accuracy"] == int((outputs.argmax(1) == targets).sum()) / sum(sizes)
    assert whole["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
