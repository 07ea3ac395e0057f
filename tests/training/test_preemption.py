"""Workers that are asked to leave (SIGTERM) finish their step first; a whole gang leaves a checkpoint behind."""

import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from ganglion.core.events import ExitKind, MemberExited, MemberReported
from ganglion.testing.faults import Fault, happened, with_faults
from ganglion.training import Optimizer, gang
from ganglion.training.checkpoints import Archive, Checkpointing

HERE = str(Path(__file__).parent)
STEPS = 12


@pytest.fixture
def plan(small_plan, sample):
    """Four epochs of three steps, on 4 logical workers, with all kinds of state."""
    return small_plan(
        train=sample("squares", count=85),
        held_out=None,
        optimizer=Optimizer(name="adamw"),
        schedule={"kind": "one_cycle"},
        logical_workers=4,
        epochs=STEPS // 3,
    )


@pytest.fixture
def expected(train, plan):
    outcome = train(plan, workers=1)
    outcome.raise_for_failure()
    return outcome.value["digest"]


@pytest.fixture
def rarely(plan, tmp_path):
    """The plan with checkpoints that are never due within a test."""
    return replace(plan, checkpoints=Checkpointing(folder=str(tmp_path / "checkpoints"), shortest=600, longest=600))


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_is_preempted_finishes_its_step_and_interrupts_nobody(
    train, plan, sample, expected, tmp_path, rank, tcp
):
    script = [
        Fault(kind="preempt", rank=rank, point="before_reduce", step=4),
        Fault(kind="mark", rank=rank, point="commit", times=0),
        Fault(kind="mark", rank=1 - rank, point="load", times=0),
    ]
    events = []
    callbacks = (sample("OverTcp"),) if tcp else ()
    outcome = train(replace(plan, callbacks=callbacks), workers=2, faults=script, events=events)
    outcome.raise_for_failure()
    assert outcome.value["digest"] == expected
    marks = [entry for entry in happened(tmp_path) if entry.fault.kind == "mark"]
    committed = [entry.step for entry in marks if entry.fault.rank == rank and entry.attempt == 1]
    assert committed == [0, 1, 2, 3, 4]
    begun = [entry.step for entry in marks if entry.fault.rank == 1 - rank and entry.attempt == 1]
    assert begun == list(range(STEPS))  # no step was begun twice
    ends = [(event.member, event.exit.kind) for event in events if isinstance(event, MemberExited)]
    assert ends[0] == (f"worker-{rank}", ExitKind.KILLED)


def test_a_gang_that_is_drained_is_taken_up_where_it_was(supervisor, train, rarely, expected, tmp_path):
    under_way = threading.Event()

    def listen(event):
        if isinstance(event, MemberReported) and event.values.get("step", 0) >= 1:
            under_way.set()

    slow = [Fault(kind="slow", point="load", seconds=0.1, times=0)]
    spec = gang(rarely, id=f"{tmp_path.name}-drained", workers=2, cpu=0.5, import_path=(HERE,))
    job = supervisor.submit(with_faults(spec, slow, tmp_path), listen)
    assert under_way.wait(60)
    job.drain()
    outcome = job.wait(60)
    assert outcome.succeeded
    assert outcome.value is None
    assert {end.kind for end in outcome.exits.values()} == {ExitKind.SUCCESS}
    left_at = Archive(tmp_path / "checkpoints").steps()
    assert len(left_at) == 1
    assert 1 <= left_at[0] < STEPS
    events = []
    again = train(rarely, workers=3, events=events)
    again.raise_for_failure()
    assert again.value["digest"] == expected
    assert min(event.values["step"] for event in events if isinstance(event, MemberReported)) > left_at[0]


def test_those_who_are_asked_one_after_the_other_leave_the_newest_state(train, rarely, expected, tmp_path):
    """The job fails with the first that is preempted, as none may be replaced; the other is asked while it waits."""
    script = [Fault(kind="preempt", rank=0, point="before_reduce", step=4)]
    outcome = train(rarely, workers=2, faults=script, restarts=0)
    assert not outcome.succeeded
    assert Archive(tmp_path / "checkpoints").steps() == [5]
    again = train(rarely, workers=1)
    again.raise_for_failure()
    assert again.value["digest"] == expected
