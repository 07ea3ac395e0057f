"""Which ends are followed by another attempt, when, and of whom; driven by signals, no process is started."""

from __future__ import annotations

from lifecycle_driver import (
    CRASH,
    Driver,
    gang,
    killed,
    service,
    starts,
    stops,
    task,
    told,
)

from ganglion.core.events import ExitKind
from ganglion.execution.lifecycle import FAILURE_GRACE, STEADY
from ganglion.execution.outcome import OutcomeState
from ganglion.execution.signals import Replace
from ganglion.execution.spec import Restart


def test_a_task_is_tried_again_while_its_budget_lasts():
    machine = Driver(task(restart=Restart(budget=2, backoff=1.0))).run()
    for attempt in (2, 3):
        assert starts(machine.end("task-0", CRASH)) == []
        assert starts(machine.tick_at_deadline()) == [("task-0", attempt)]
        machine.join("task-0")
    machine.end("task-0", CRASH)
    assert machine.outcome.state is OutcomeState.FAILED


def test_the_back_off_doubles_up_to_its_limit():
    machine = Driver(task(restart=Restart(budget=-1, backoff=1.0, longest=5.0))).run()
    waits = []
    for _ in range(5):
        machine.end("task-0", CRASH)
        waits.append(machine.deadline - machine.now)
        assert machine.tick(waits[-1] - 0.01) == []
        assert machine.tick(0.01) != []
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_member_that_was_steady_begins_its_back_off_anew():
    machine = Driver(task(restart=Restart(budget=-1, backoff=1.0))).run()
    for _ in range(3):
        machine.end("task-0", CRASH)
        machine.tick_at_deadline()
        machine.join("task-0")
    machine.end("task-0", CRASH, after=STEADY)
    assert machine.deadline == machine.now + 1.0


def test_a_member_that_never_joined_was_not_steady():
    machine = Driver(task(restart=Restart(budget=-1, backoff=1.0))).submit()
    machine.admit()
    machine.end("task-0", CRASH)
    machine.tick_at_deadline()
    machine.end("task-0", CRASH, after=STEADY)
    assert machine.deadline == machine.now + 2.0


def test_steadiness_does_not_give_the_budget_back():
    machine = Driver(task(restart=Restart(budget=1, backoff=1.0))).run()
    machine.end("task-0", CRASH, after=STEADY)
    machine.tick_at_deadline()
    machine.join("task-0")
    machine.end("task-0", CRASH, after=STEADY)
    assert machine.outcome.state is OutcomeState.FAILED


def test_a_rank_is_replaced_alone_and_the_others_hear_of_its_return():
    machine = Driver(gang(3, restart=Restart(budget=1, backoff=1.0, alone=True))).run()
    orders = machine.end("worker-1", CRASH)
    assert (stops(orders), told(orders)) == ([], [])
    assert starts(machine.tick_at_deadline()) == [("worker-1", 2)]
    orders = machine.join("worker-1")
    assert told(orders) == [["worker-0", "worker-1", "worker-2"]]
    assert orders[0].membership.peers[1].address == "10.0.0.1:worker-1.2"
    assert machine.state.generation == 2


def test_a_gang_restarts_together():
    machine = Driver(gang(3, grace=60.0, restart=Restart(budget=1, backoff=1.0))).run()
    machine.end("worker-0")
    assert stops(machine.end("worker-1", CRASH)) == [("worker-2", FAILURE_GRACE)]
    assert machine.deadline is None
    assert machine.tick(5.0) == []
    orders = machine.end("worker-2", killed())
    assert starts(orders) == [("worker-0", 2), ("worker-1", 2), ("worker-2", 2)]
    assert machine.join("worker-0", "worker-2") == []
    assert told(machine.join("worker-1")) == [["worker-0", "worker-1", "worker-2"]]


def test_a_gang_that_regrouped_waits_for_the_back_off_of_the_one_that_failed():
    machine = Driver(gang(2, restart=Restart(budget=1, backoff=10.0))).run()
    machine.end("worker-1", CRASH)
    assert machine.end("worker-0", killed()) == []
    assert machine.deadline == machine.now + 10.0
    assert starts(machine.tick_at_deadline()) == [("worker-0", 2), ("worker-1", 2)]


def test_a_member_being_replaced_waits_for_that_back_off_too():
    machine = Driver(gang(2, restart=Restart(budget=1, backoff=10.0))).run()
    machine.tell(Replace("worker-0"))
    machine.end("worker-1", CRASH)
    assert machine.end("worker-0", killed()) == []
    assert machine.deadline == machine.now + 10.0


def test_a_gang_that_restarts_together_counts_one_restart_however_many_fail():
    machine = Driver(gang(3, restart=Restart(budget=1, backoff=1.0))).run()
    machine.end("worker-1", CRASH)
    machine.end("worker-0", CRASH)
    machine.end("worker-2", CRASH)
    assert machine.state.restarts == 1
    machine.tick_at_deadline()
    machine.join("worker-0", "worker-1", "worker-2")
    machine.end("worker-0", CRASH)
    machine.end("worker-1", killed())
    machine.end("worker-2", killed())
    assert machine.outcome.state is OutcomeState.FAILED


def test_a_member_admitted_while_the_gang_regroups_starts_with_the_others():
    machine = Driver(gang(3, minimum=2, restart=Restart(budget=1, backoff=1.0))).submit()
    machine.admit("worker-0", "worker-1")
    machine.join("worker-0", "worker-1")
    machine.end("worker-0", CRASH)
    assert machine.admit("worker-2") == []
    machine.end("worker-1", killed())
    assert starts(machine.tick_at_deadline()) == [("worker-0", 2), ("worker-1", 2), ("worker-2", 1)]


def test_a_member_admitted_while_the_others_back_off_is_not_told_that_it_is_alone():
    machine = Driver(gang(3, minimum=2, restart=Restart(budget=1, backoff=1.0))).submit()
    machine.admit("worker-0", "worker-1")
    machine.join("worker-0", "worker-1")
    machine.end("worker-0", CRASH)
    machine.end("worker-1", killed())
    machine.admit("worker-2")
    assert told(machine.join("worker-2")) == []
    machine.tick_at_deadline()
    assert told(machine.join("worker-0", "worker-1")) == [["worker-0", "worker-1", "worker-2"]]


def test_a_gang_with_an_explicit_minimum_goes_on_without_the_one_it_lost():
    machine = Driver(gang(3, minimum=2)).run()
    assert told(machine.end("worker-0", CRASH)) == [["worker-1", "worker-2"]]
    machine.end("worker-1")
    machine.end("worker-2")
    assert machine.outcome.succeeded
    assert machine.outcome.exits["worker-0"].kind is ExitKind.EXCEPTION


def test_below_its_minimum_a_gang_fails():
    machine = Driver(gang(3, minimum=2)).run()
    machine.end("worker-0", CRASH)
    assert stops(machine.end("worker-1", CRASH)) == [("worker-2", FAILURE_GRACE)]
    machine.end("worker-2", killed())
    assert (machine.outcome.state, machine.outcome.culprit) == (OutcomeState.FAILED, "worker-1")


def test_a_survivor_that_was_all_the_others_waited_for_releases_them():
    machine = Driver(gang(3, minimum=2)).submit()
    machine.admit("worker-0", "worker-1")
    machine.admit("worker-2")
    machine.join("worker-0", "worker-2")
    assert told(machine.history) == []
    assert told(machine.end("worker-1", CRASH)) == [["worker-0", "worker-2"]]


def test_a_replica_that_returns_is_started_again():
    machine = Driver(service(1, restart=Restart(budget=-1, backoff=1.0, alone=True))).run()
    machine.end("replica-0")
    assert starts(machine.tick_at_deadline()) == [("replica-0", 2)]


def test_a_replica_is_restarted_without_the_others():
    machine = Driver(service(2, restart=Restart(budget=-1, backoff=1.0, alone=True))).run()
    assert machine.end("replica-0", CRASH) == []
    assert machine.member("replica-1").phase == "running"
