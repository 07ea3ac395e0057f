"""All workers are lost, and the training ends as if nothing had happened, on whatever workers there are then."""

import pytest
from msgspec.structs import replace

from ganglion.core.events import ExitKind, MemberExited
from ganglion.execution.entry import Entry
from ganglion.execution.outcome import JobFailedError
from ganglion.training import Factory, Optimizer
from ganglion.training.checkpoints import Archive, Checkpointing

STEPS = 36


@pytest.fixture
def plan(small_plan, tmp_path):
    """8 logical workers, twelve epochs of three steps, and states of all kinds: moments, statistics, the best model."""
    return small_plan(
        optimizer=Optimizer(name="adamw"),
        schedule={"kind": "one_cycle"},
        logical_workers=8,
        epochs=STEPS // 3,
        callbacks=(Factory(entry=Entry(path="ganglion.training:KeepBest"), arguments={"metric": "loss"}),),
        checkpoints=Checkpointing(folder=str(tmp_path / "checkpoints"), keep_last=3, shortest=0, longest=0),
    )


@pytest.fixture
def expected(train, plan):
    """What a training without checkpoints ends with."""
    outcome = train(replace(plan, checkpoints=None), workers=1)
    outcome.raise_for_failure()
    return outcome.value


@pytest.fixture
def killed(train, plan, tmp_path):
    """Run a plan on two workers that get SIGKILL once there are checkpoints; without replacements that is the end."""

    def run(restarts=0):
        events = []
        fault = Factory(
            entry=Entry(path="checkpoint_samples:KillAll"),
            arguments={"folder": str(tmp_path), "step": 5, "workers": 2},
        )
        outcome = train(replace(plan, callbacks=(*plan.callbacks, fault)), workers=2, restarts=restarts, events=events)
        ends = [event.exit.kind for event in events if isinstance(event, MemberExited)]
        assert ends.count(ExitKind.KILLED) == 2 or (ends[0] is ExitKind.KILLED and not restarts)  # the job ended first
        return outcome

    return run


def same(outcome, expected):
    outcome.raise_for_failure()
    assert outcome.value["digest"] == expected["digest"]
    assert outcome.value["metrics"] == expected["metrics"]
    assert [line["epoch"] for line in outcome.value["history"]] == list(range(1, STEPS // 3 + 1))


def test_on_other_numbers_of_workers(train, plan, killed, expected, tmp_path):
    with pytest.raises(JobFailedError, match=r"killed|SIGKILL"):
        killed().raise_for_failure()
    archive = Archive(tmp_path / "checkpoints")
    newest = archive.steps()[0]
    assert 5 <= newest < STEPS
    events = []
    same(train(replace(plan, logical_workers=None), workers=3, events=events), expected)
    steps = [event.values["step"] for event in events if hasattr(event, "values") and "step" in event.values]
    assert min(steps) >= newest  # and not from the beginning
    assert archive.newest().losses == 1


def test_from_the_one_before_when_the_newest_is_damaged(train, plan, killed, expected, tmp_path):
    killed()
    archive = Archive(tmp_path / "checkpoints")
    newest, before, *_ = archive.steps()
    path = archive.folder / str(newest) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert before >= 0
    same(train(plan, workers=1), expected)


def test_by_the_replacements_of_the_same_job(killed, expected, tmp_path):
    same(killed(restarts=4), expected)
    assert Archive(tmp_path / "checkpoints").newest().losses == 1


def test_another_model_is_refused(train, plan, sample, tmp_path):
    train(replace(plan, epochs=2), workers=1).raise_for_failure()
    assert Archive(tmp_path / "checkpoints").steps()
    other = replace(plan, epochs=2, model=sample("ReferenceModel"))
    with pytest.raises(JobFailedError, match=r"another model.*missing in the checkpoint: convolutions\.0\.weight"):
        train(other, workers=1).raise_for_failure()
