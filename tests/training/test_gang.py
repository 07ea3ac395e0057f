"""Trainings as real gangs of processes."""

import ipaddress
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from ganglion.core.events import MemberReported
from ganglion.execution.entry import Entry
from ganglion.training import Factory, Optimizer, fit
from ganglion.training.slices import random_key

HERE = str(Path(__file__).parent)


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def test_two_workers_take_the_steps_of_one(trained_weights, small_plan):
    """Dropout, batch normalisation, shuffling and a short last batch included; two logical workers in both cases."""
    plan = small_plan(logical_workers=2, epochs=2)
    assert_same_bits(trained_weights(plan, workers=2), trained_weights(plan, workers=1))


def test_a_training_repeats_to_the_last_bit_and_follows_its_seed(trained_weights, small_plan):
    first, second, other = (trained_weights(small_plan(seed=seed), workers=2) for seed in (5, 5, 6))
    assert_same_bits(first, second)
    assert any(first[name].tobytes() != other[name].tobytes() for name in first)


def test_workers_with_unequal_and_empty_slices_take_the_steps_of_a_plain_loop(trained_weights, small_plan, sample):
    """Three workers, batches of 8, 8 and 1 records; against the loop that one would write without any of this."""
    plan = small_plan(
        model=sample("linear"),
        train=sample("line", count=17, global_batch=8),
        held_out=None,
        input_column="features",
        target_column="target",
        loss="mean_squared_error",
        optimizer=Optimizer(name="sgd", options={"momentum": 0.9}),
        learning_rate=0.05,
        epochs=3,
    )
    torch.manual_seed(random_key(plan.seed, "weights"))
    model = plan.model.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        for batch in plan.train.build().batches(epoch, first=0, last=1, of=1):
            optimizer.zero_grad()
            outputs = model(torch.from_numpy(batch["features"])).squeeze(1)
            torch.nn.functional.mse_loss(outputs, torch.from_numpy(batch["target"])).backward()
            optimizer.step()
    trained = trained_weights(plan, workers=3)
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(trained[name], tensor.numpy(), rtol=1e-4, atol=1e-6)


def test_every_held_out_record_counts_once(train, small_plan, sample):
    """47 records in batches of 16 cut in two: 47 is prime, so that only the exact count gives the exact accuracy."""
    plan = small_plan(held_out=sample("squares", count=47, global_batch=16, seed=9, shuffle=False))
    metrics = train(plan, workers=2).value["metrics"]
    assert metrics["accuracy"] * 47 == pytest.approx(round(metrics["accuracy"] * 47), abs=1e-9)
    assert train(replace(plan, logical_workers=2), workers=1).value["metrics"] == metrics


def test_early_stopping_ends_all_ranks_after_the_same_epoch(train, small_plan):
    never_better = Factory(
        entry=Entry(path="ganglion.training:EarlyStopping"),
        arguments={"metric": "accuracy", "least": 2.0, "patience": 2},
    )
    outcome = train(small_plan(epochs=50, callbacks=(never_better,)), workers=2)
    assert outcome.succeeded, outcome.message
    assert len(outcome.value["history"]) == 3
    assert "accuracy has not improved" in outcome.value["stopped"]
    assert len(outcome.exits) == 2


def test_a_callback_ends_all_ranks_in_the_middle_of_an_epoch(train, small_plan, sample):
    events = []
    plan = small_plan(epochs=3, callbacks=(sample("StopAtStep", step=1),))
    outcome = train(plan, workers=2, events=events)
    assert outcome.succeeded, outcome.message
    assert outcome.value["stopped"] == "step 1 was enough"
    reports = [event.values for event in events if isinstance(event, MemberReported)]
    assert [report["step"] for report in reports if "epoch" in report] == [2]


def test_a_loss_that_is_no_number_names_epoch_and_step_and_saves_nothing(train, small_plan, sample, tmp_path):
    plan = small_plan(train=sample("squares", poison=70, shuffle=False), held_out=None, model=sample("SmallModel"))
    outcome = train(plan, workers=2, store=tmp_path / "store")
    assert not outcome.succeeded
    assert (
        "not a finite number in epoch 1, batch 3 of 3 (step 3 of 3), in the loss of logical worker" in outcome.traceback
    )
    assert not (tmp_path / "store").exists()


def test_a_label_out_of_range_is_the_error_of_the_worker_that_met_it(train, small_plan, sample):
    plan = small_plan(train=sample("squares", bad_label=90, shuffle=False))
    outcome = train(plan, workers=2)
    assert outcome.culprit == "worker-1"
    assert "has the label 10, but the model has 10 outputs; labels are 0 to 9" in outcome.traceback
    assert "It is in epoch 1, batch 3 of 3 (step 3 of 3)" in outcome.traceback


def test_nothing_listens_beyond_this_machine(train, small_plan, sample, tmp_path):
    found = tmp_path / "listening"
    plan = small_plan(callbacks=(sample("ListeningSockets", path=str(found)),))
    train(plan, workers=2).raise_for_failure()
    assert found.read_text().split() == []


def test_without_exactness_nothing_listens_beyond_the_loopback_interface(train, small_plan, sample, tmp_path):
    found = tmp_path / "listening"
    plan = small_plan(callbacks=(sample("ListeningSockets", path=str(found)),), exact=False)
    train(plan, workers=2).raise_for_failure()
    addresses = found.read_text().split()
    assert addresses
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses)


def test_fit_trains_reports_and_publishes(supervisor, sample, tmp_path, capsys):
    events = []
    result = fit(
        sample("SmallModel"),
        train=sample("squares", count=192),
        held_out=sample("squares", count=50, seed=9, shuffle=False),
        supervisor=supervisor,
        workers=2,
        epochs=6,
        learning_rate=0.02,
        schedule={"kind": "one_cycle"},
        store=tmp_path / "store",
        cpu=0.5,
        import_path=(HERE,),
        listener=events.append,
        progress=True,
    )
    assert result.metrics["accuracy"] > 0.9
    assert "epoch 6 of 6: accuracy" in capsys.readouterr().out
    assert [line["epoch"] for line in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.metrics["accuracy"] == result.history[-1]["accuracy"]
    assert result.parameters == 4 * 25 + 4 + 8 + 256 * 10 + 10
    assert result.artifact.kind == "model"
    reports = [event for event in events if isinstance(event, MemberReported)]
    assert {report.member for report in reports} == {"worker-0"}
    last = reports[-1].values
    assert last["progress"] == 1.0
    assert last.keys() >= {"epoch", "loss", "accuracy", "images_per_second", "step", "steps"}
