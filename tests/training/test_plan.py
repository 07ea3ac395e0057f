import json
import subprocess
import sys

import msgspec
import pytest

from ganglion import training
from ganglion.core import config
from ganglion.core.errors import ConfigurationError
from ganglion.execution.entry import entry_of
from ganglion.training import Factory, Optimizer, Schedule, TrainingPlan, gang


def test_planning_loads_no_torch():
    script = (
        "import sys, ganglion.training as t; t.TrainingPlan, t.gang, t.Schedule, t.fit, t.TrainingResult;"
        "print([name for name in ('torch', 'onnx', 'sqlalchemy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_package_lists_its_public_names():
    assert set(training.__all__) == {
        "BatchSource",
        "Callback",
        "EarlyStopping",
        "Export",
        "Factory",
        "KeepBest",
        "Metric",
        "Optimizer",
        "ReduceOnPlateau",
        "Schedule",
        "TensorBoard",
        "TrainingPlan",
        "TrainingResult",
        "evaluate",
        "fit",
        "gang",
        "predict",
    }
    assert all(callable(getattr(training, name)) for name in training.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        training.fitt  # noqa: B018  # the look-up is what is tested


def test_a_plan_reads_the_same_after_a_journey_as_json(small_plan):
    plan = small_plan(
        model=Factory(entry=entry_of(lambda: None)),
        optimizer=Optimizer(name="adamw", options={"weight_decay": 0.1}),
        schedule=Schedule(kind="one_cycle"),
        classes=("a", "b"),
    )
    spec = gang(plan, id="job", workers=2)
    travelled = json.loads(json.dumps(spec.arguments))
    read = config.convert(TrainingPlan, travelled["plan"])
    assert read == msgspec.structs.replace(plan, logical_workers=2)
    assert read.model.entry.load()() is None


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"unknown key 'epoch'.*Did you mean 'epochs'"):
        config.convert(TrainingPlan, {"epoch": 2})


@pytest.mark.parametrize(
    "field", ["epochs", "max_steps", "learning_rate", "clip_norm", "micro_batches", "global_batch"]
)
def test_what_has_to_be_positive_is(small_plan, field):
    with pytest.raises(ConfigurationError, match=f"{field} is 0"):
        small_plan(**{field: 0})


def test_more_workers_than_logical_workers_are_refused_before_anything_starts(small_plan):
    with pytest.raises(ConfigurationError, match="3 workers for 2 logical workers"):
        gang(small_plan(logical_workers=2), id="job", workers=3)


def test_the_gang_pins_its_threads_and_asks_for_its_share(small_plan):
    spec = gang(small_plan(), id="job", workers=3, cpu=0.5)
    assert spec.numerics.threads == 1
    assert spec.resources.cpu == 0.5
    assert [role.count for role in spec.roles] == [3]


def test_an_exact_training_is_an_elastic_gang_and_may_begin_small(small_plan):
    spec = gang(small_plan(logical_workers=4), id="job", workers=4, min_workers=2)
    assert spec.elastic
    assert spec.roles[0].least == 2
    assert spec.restart.budget > 0
    plain = gang(small_plan(exact=False), id="job", workers=2)
    assert not plain.elastic
    assert plain.restart.budget == 0


@pytest.mark.parametrize(("minimum", "exact"), [(0, True), (3, True), (1, False)])
def test_an_impossible_minimum_is_refused(small_plan, minimum, exact):
    with pytest.raises(ConfigurationError, match=f"min_workers is {minimum} of 2 workers"):
        gang(small_plan(exact=exact), id="job", workers=2, min_workers=minimum)
