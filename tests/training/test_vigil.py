"""A process whose training thread is stuck is told from one that a busy machine keeps waiting, and is replaced."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.events import ExitKind, MemberExited
from ganglion.training import vigil
from ganglion.training.vigil import PATIENCE, UNUSUAL, Effort, Vigil, judge

seconds = st.floats(0.0, 10_000.0)


@given(seconds, seconds, seconds)
def test_time_alone_proves_nothing(waited, cpu, usual):
    """However long it takes: who uses less processor time than is far too much, and is not idle, is at work."""
    assert not judge(Effort(waited, min(cpu, 0.99 * max(PATIENCE, UNUSUAL * usual)), 0.0, usual), PATIENCE)


@given(seconds, seconds, seconds, st.floats(0.0, 100.0))
def test_who_is_slower_than_ever_but_less_than_far_is_at_work(waited, cpu, idle, usual):
    reason = judge(Effort(waited, cpu, idle, usual), PATIENCE)
    assert bool(reason) == (max(cpu, idle) >= max(PATIENCE, UNUSUAL * usual))


@given(seconds, seconds, seconds, seconds, st.floats(1.0, 10.0))
def test_what_takes_peers_long_is_expected_to_take_long_here(waited, cpu, idle, usual, times):
    """More time that is usual never makes anybody stuck."""
    if not judge(Effort(waited, cpu, idle, usual), PATIENCE):
        assert not judge(Effort(waited, cpu, idle, usual * times), PATIENCE)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(vigil, "PATIENCE", 0.4)


def watched(work, usual=0.0):
    """The reason that is given while `work` goes on, which gets an event that is set then."""
    given = threading.Event()
    reasons = []

    def stuck(reason):
        reasons.append(reason)
        given.set()

    watch = Vigil(stuck)
    with watch.watch(usual):
        work(given)
    watch.close()
    return reasons


@pytest.mark.usefixtures("impatient")
def test_an_endless_loop_is_seen():
    def work(given):
        end = time.monotonic() + 60.0
        while not given.is_set() and time.monotonic() < end:
            pass

    assert "processor time" in watched(work)[0]


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_is_never_released_is_seen():
    assert "idle" in watched(lambda given: given.wait(60.0))[0]


@pytest.mark.usefixtures("impatient")
def test_what_is_usual_is_not_mistaken():
    assert watched(lambda given: given.wait(1.5), usual=1.0) == []


@pytest.mark.usefixtures("impatient")
def test_many_short_tasks_are_no_long_one():
    reasons = []
    watch = Vigil(reasons.append)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        with watch.watch(0.0):
            sum(range(10_000))
    watch.close()
    assert reasons == []


@pytest.mark.parametrize("how", ["loop", "lock"])
def test_a_stuck_worker_is_replaced_and_nothing_of_it_is_in_the_result(how, train, small_plan, sample, tmp_path):
    plan = small_plan(train=sample("squares", count=192), epochs=2, held_out=None, logical_workers=4)
    events = []
    stuck = sample("StuckOnce", how=how, worker="worker-1", folder=str(tmp_path))
    outcome = train(
        small_plan(
            model=stuck, train=plan.train, epochs=2, held_out=None, logical_workers=4, callbacks=(sample("Impatient"),)
        ),
        workers=2,
        events=events,
    )
    outcome.raise_for_failure()
    ends = [(event.member, event.attempt, event.exit.kind) for event in events if isinstance(event, MemberExited)]
    assert ("worker-1", 1, ExitKind.LOST) in ends
    assert outcome.value["digest"] == train(plan, workers=2).value["digest"]
