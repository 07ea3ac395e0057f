import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ConfigurationError, ModelError
from ganglion.training.metrics import find_metrics, measure, merge, values
from ganglion.training.plan import METRICS


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_measures_do_not_depend_on_how_records_are_cut(sizes, cut):
    torch.manual_seed(sum(sizes))
    outputs, targets = torch.randn(sum(sizes), 4), torch.randint(0, 4, (sum(sizes),))
    losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    parts = [
        measure(find_metrics(("accuracy", "loss")), o, t, float(each.mean()))
        for o, t, each in zip(outputs.split(sizes), targets.split(sizes), losses.split(sizes), strict=True)
    ]
    whole = values(find_metrics(("accuracy", "loss")), merge([merge(parts[:cut]), merge(parts[cut:])]))
    assert whole["accuracy"] == int((outputs.argmax(1) == targets).sum()) / sum(sizes)
    assert whole["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def measured(name, outputs, targets, cuts):
    """A measure over records that were cut somehow."""
    metrics = find_metrics((name,))
    parts = [measure(metrics, o, t, 0.0) for o, t in zip(outputs.split(cuts), targets.split(cuts), strict=True)]
    return values(metrics, merge(parts))[name]


cut_somehow = st.lists(st.integers(1, 9), min_size=2, max_size=6)


@given(cut_somehow, st.sampled_from(["f1", "f1_micro", "precision", "recall"]), st.booleans())
def test_decisions_by_class_are_those_of_the_definition(cuts, name, several):
    torch.manual_seed(sum(cuts))
    outputs = torch.randn(sum(cuts), 4)
    if several:
        targets = torch.randint(0, 2, (sum(cuts), 4))
        said, true = outputs > 0, targets > 0
    else:
        targets = torch.randint(0, 4, (sum(cuts),))
        said, true = outputs.argmax(1)[:, None] == torch.arange(4), targets[:, None] == torch.arange(4)
    counts = [(int((s & t).sum()), int(s.sum()), int(t.sum())) for s, t in zip(said.T, true.T, strict=True)]
    if name == "f1_micro":
        counts = [tuple(map(sum, zip(*counts, strict=True)))]
    of = {
        "f1": lambda hits, said, true: 2 * hits / (said + true),
        "f1_micro": lambda hits, said, true: 2 * hits / (said + true) if said + true else 0.0,
        "precision": lambda hits, said, true: hits / said if said else 0.0,
        "recall": lambda hits, said, true: hits / true if true else 0.0,
    }[name]
    each = [of(*count) for count in counts if count[1] + count[2] or name == "f1_micro"]
    assert measured(name, outputs, targets, cuts) == pytest.approx(sum(each) / len(each))


@given(cut_somehow, st.integers(1, 3))
def test_regression_is_that_of_the_definition(cuts, outputs_each):
    torch.manual_seed(sum(cuts))
    targets = torch.randn(sum(cuts), outputs_each) * 3 + 5
    outputs = targets + torch.randn(targets.shape)
    errors = (outputs - targets).double()
    variation = (targets.double() - targets.double().mean(0)).square().sum(0)
    expected = {
        "mean_squared_error": errors.square().mean(),
        "root_mean_squared_error": errors.square().mean().sqrt(),
        "mean_absolute_error": errors.abs().mean(),
        "r2": (1 - errors.square().sum(0) / variation).mean(),
    }
    for name, value in expected.items():
        assert measured(name, outputs, targets, cuts) == pytest.approx(float(value), rel=1e-4, abs=1e-4), name


@given(cut_somehow, st.integers(1, 5))
def test_the_right_label_is_among_the_first(cuts, most):
    torch.manual_seed(sum(cuts))
    outputs, targets = torch.randn(sum(cuts), 5), torch.randint(0, 5, (sum(cuts),))
    places = [row.argsort(descending=True).tolist().index(int(t)) for row, t in zip(outputs, targets, strict=True)]
    expected = sum(place < most for place in places) / len(places)
    assert measured(f"top_{most}_accuracy", outputs, targets, cuts) == pytest.approx(expected)


def test_all_labels_of_a_record_or_each_of_them():
    outputs, targets = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [1, 0]])
    assert measured("exact_match", outputs, targets, [1, 1]) == 0.5
    assert measured("accuracy", outputs, targets, [2]) == 0.75


def test_every_name_has_its_measure_and_one_of_your_own_has_its_path():
    assert find_metrics(METRICS).keys() == set(METRICS)
    mine = find_metrics(("training_samples:Largest",))
    parts = [measure(mine, torch.tensor([[x]]), torch.tensor([[0.0]]), 0.0) for x in (3.0, 4.0)]
    assert values(mine, merge(parts)) == {"Largest": 7.0}
    with pytest.raises(ConfigurationError, match="without the methods `sums` and `value`"):
        find_metrics(("training_samples:linear",))


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(ModelError, match=r"returned \[2, 3\] for targets \[2, 2\]"):
        measured("r2", torch.zeros(2, 3), torch.zeros(2, 2), [2])
    with pytest.raises(ModelError, match=r"top_9_accuracy needs logits .* at least 9 classes"):
        measured("top_9_accuracy", torch.zeros(2, 3), torch.zeros(2), [2])
