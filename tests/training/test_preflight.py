"""What is refused before the first step; workers run in this process, as a world of one."""

import msgspec
import pytest

from ganglion.core.config import convert
from ganglion.core.errors import ConfigurationError, DataError, ModelError
from ganglion.training import Optimizer, TrainingPlan
from ganglion.training.worker import main


def run(plan):
    return main(plan=msgspec.to_builtins(plan))


def refused(plan, error, match):
    with pytest.raises(error, match=match):
        run(plan)


def test_a_model_without_parameters(small_plan, sample):
    refused(small_plan(model=sample("Frozen")), ModelError, "Frozen has no parameters to train")


def test_something_that_is_no_model(small_plan, sample):
    refused(small_plan(model=sample("not_a_model")), ModelError, r"returned a dict; a torch\.nn\.Module")


def test_a_label_out_of_range_in_the_first_batch(small_plan, sample):
    refused(small_plan(train=sample("squares", bad_label=0, shuffle=False)), DataError, "label 10.*labels are 0 to 9")


def test_a_label_out_of_range_in_the_held_out_records(small_plan, sample):
    held_out = sample("squares", bad_label=0, shuffle=False)
    refused(small_plan(held_out=held_out), DataError, "label 10.*labels are 0 to 9")


def test_other_classes_than_outputs(small_plan):
    refused(small_plan(classes=("a", "b")), ModelError, "10 outputs, but the plan names 2 classes")


def test_a_global_batch_that_is_not_the_sources(small_plan):
    refused(small_plan(global_batch=64), ConfigurationError, "global batch of 64 records.*one of 32")


def test_a_batch_smaller_than_the_logical_workers(small_plan, sample):
    plan = small_plan(train=sample("squares", global_batch=2), logical_workers=4)
    refused(plan, ConfigurationError, "2 records cannot be cut into slices for 4 logical workers")


def test_a_column_that_is_not_there(small_plan):
    refused(small_plan(target_column="lable"), DataError, r"no column 'lable'.*image, label.*Did you mean 'label'")


def test_no_records(small_plan, sample):
    refused(small_plan(train=sample("squares", count=0)), DataError, "0 records")


def test_a_loss_nobody_knows(small_plan):
    refused(small_plan(loss="cross_entrpy"), ConfigurationError, "Did you mean 'cross_entropy'")


def test_an_option_the_optimizer_does_not_have(small_plan):
    plan = small_plan(optimizer=Optimizer(name="adam", options={"momentum": 0.9}))
    refused(plan, ConfigurationError, "'adam' has no option 'momentum'")
    plan = small_plan(optimizer=Optimizer(name="adam", options={"weight_decay": -1}))
    refused(plan, ConfigurationError, "refuses its options.*weight_decay")


def test_a_callback_that_is_none(small_plan, sample):
    refused(small_plan(callbacks=(sample("linear"),)), ConfigurationError, "is a Linear; a subclass of")


def test_a_metric_nobody_knows():
    with pytest.raises(ConfigurationError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'"):
        convert(
            TrainingPlan,
            {"model": {"entry": {"path": "a:b"}}, "train": {"entry": {"path": "a:b"}}, "metrics": ["acuracy"]},
        )


def test_regression_measures_the_loss_alone_unless_asked(small_plan, sample):
    plan = small_plan(
        model=sample("linear"),
        train=sample("line"),
        held_out=sample("line", seed=3),
        input_column="features",
        target_column="target",
        loss="mean_squared_error",
        learning_rate=0.1,
        epochs=30,
    )
    metrics = run(plan)["metrics"]
    assert metrics.keys() == {"train_loss", "loss"}
    assert metrics["loss"] < 0.1


def test_fewer_records_than_one_batch(small_plan, sample):
    plan = small_plan(train=sample("squares", count=5, global_batch=32))
    refused(plan, DataError, "has 5 records, fewer than one global batch of 32; use a global batch of at most 5")


def test_normalising_over_processes_is_refused_with_the_reason():
    from torch import nn

    from ganglion.training.preflight import check_model

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SyncBatchNorm(2))
    with pytest.raises(ModelError, match=r"SyncBatchNorm in 1: it adds up over processes.*exact=False"):
        check_model(model)
    assert check_model(model, exact=False) is model


def test_fewer_logical_workers_than_processes_are_refused(small_plan):
    from ganglion.training.preflight import check_source

    plan = small_plan()
    with pytest.raises(ConfigurationError, match="2 logical workers cannot occupy 3 workers"):
        check_source(plan.train.build(), plan, 2, 3)


def test_another_arithmetic_is_refused_by_name():
    from ganglion.training.numerics import arithmetic

    here = arithmetic()
    here.check(here, "worker-1")
    there = msgspec.structs.replace(here, threads=7)
    with pytest.raises(ConfigurationError, match=r"worker-1 computes with another.*threads: 1 here, 7 there"):
        msgspec.structs.replace(here, threads=1).check(there, "worker-1")
