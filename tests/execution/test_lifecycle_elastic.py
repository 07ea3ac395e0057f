"""Elastic gangs: who takes part, and what everyone is told, after every change."""

from __future__ import annotations

import pytest
from lifecycle_driver import CRASH, SUCCESS, Driver, gang, killed, of, starts, stops, told

from ganglion.core.events import ExitKind
from ganglion.execution.instructions import Broadcast
from ganglion.execution.job_state import Phase
from ganglion.execution.outcome import OutcomeState
from ganglion.execution.signals import Accused, Replace
from ganglion.execution.spec import Restart

ONCE = Restart(budget=2, backoff=1.0, alone=True)


@pytest.fixture
def machine() -> Driver:
    """Two members that take part."""
    driver = Driver(gang(2, elastic=True, restart=ONCE)).run()
    driver.ready("worker-0")
    driver.ready("worker-1")
    return driver


def parts(orders) -> list[str]:
    """Where the members of the one membership that was broadcast take part, empty for those who do not yet."""
    (broadcast,) = of(orders, Broadcast)
    return [f"{peer.member}.{peer.attempt} {peer.endpoint}".rstrip() for peer in broadcast.membership.peers]


def test_nobody_takes_part_before_all_that_start_together_are_ready():
    machine = Driver(gang(2, elastic=True)).run()
    assert told(machine.ready("worker-0")) == []
    assert parts(machine.ready("worker-1")) == ["worker-0.1 unix:/worker-0", "worker-1.1 unix:/worker-1"]


def test_a_gang_is_formed_by_its_minimum_and_told_when_another_is_ready():
    machine = Driver(gang(2, minimum=1, elastic=True)).run()
    assert parts(machine.ready("worker-0")) == ["worker-0.1 unix:/worker-0", "worker-1.1"]
    assert parts(machine.ready("worker-1"))[1] == "worker-1.1 unix:/worker-1"


def test_the_others_hear_at_once_of_a_loss_and_again_when_its_successor_is_ready(machine):
    assert parts(machine.end("worker-0", killed(9))) == ["worker-1.1 unix:/worker-1"]
    assert starts(machine.tick_at_deadline()) == [("worker-0", 2)]
    assert parts(machine.join("worker-0")) == ["worker-0.2", "worker-1.1 unix:/worker-1"]
    assert parts(machine.ready("worker-0")) == ["worker-0.2 unix:/worker-0", "worker-1.1 unix:/worker-1"]


def test_without_the_flag_the_others_wait_for_the_return():
    machine = Driver(gang(2, restart=ONCE)).run()
    assert told(machine.end("worker-0", killed(9))) == []


def test_a_gang_that_lost_everyone_is_formed_anew(machine):
    machine.end("worker-0", killed(9))
    machine.end("worker-1", killed(9))
    machine.tick_at_deadline()
    machine.join("worker-0", "worker-1")
    assert told(machine.ready("worker-1")) == []
    assert len(parts(machine.ready("worker-0"))) == 2


def test_an_exception_fails_the_job_as_it_would_come_again(machine):
    machine.end("worker-1", CRASH)
    assert stops(machine.last)
    machine.end("worker-0", killed())
    assert machine.outcome.state is OutcomeState.FAILED
    assert machine.outcome.culprit == "worker-1"


def test_the_first_return_ends_the_job_while_a_member_is_being_replaced(machine):
    machine.end("worker-0", killed(9))
    machine.end("worker-1", SUCCESS)
    assert machine.outcome.succeeded
    assert machine.outcome.value == 7
    assert machine.deadline is None


def test_the_first_return_drains_the_others(machine):
    assert [name for name, _ in stops(machine.end("worker-0", SUCCESS))] == ["worker-1"]
    machine.end("worker-1", killed())
    assert machine.outcome.succeeded
    assert {exit_.kind for exit_ in machine.outcome.exits.values()} == {ExitKind.SUCCESS}


def test_an_accused_member_is_killed_and_the_others_hear_of_it_once_it_is_gone(machine):
    orders = machine.tell(Accused("worker-1", 1))
    assert stops(orders) == [("worker-1", 0.0)]
    assert told(orders) == []
    assert parts(machine.end("worker-1", killed(9))) == ["worker-0.1 unix:/worker-0"]
    assert machine.member("worker-1").exit.kind is ExitKind.LOST
    assert starts(machine.tick_at_deadline()) == [("worker-1", 2)]


def test_an_accusation_of_an_earlier_attempt_is_ignored(machine):
    machine.end("worker-1", killed(9))
    machine.tick_at_deadline()
    machine.join("worker-1")
    assert machine.tell(Accused("worker-1", 1)) == []


def test_nobody_can_be_accused_in_a_gang_that_is_not_elastic():
    assert Driver(gang(2)).run().tell(Accused("worker-1", 1)) == []


def test_a_member_that_is_replaced_on_purpose_is_missed_at_once(machine):
    machine.tell(Replace("worker-0"))
    orders = machine.end("worker-0", killed())
    assert parts(orders) == ["worker-1.1 unix:/worker-1"]
    assert starts(orders) == [("worker-0", 2)]
    assert machine.member("worker-0").phase is Phase.STARTING


def test_when_the_restarts_are_used_up_the_gang_lives_as_long_as_its_minimum():
    machine = Driver(gang(2, minimum=1, elastic=True)).run()
    machine.ready("worker-0")
    machine.ready("worker-1")
    assert parts(machine.end("worker-0", killed(9))) == ["worker-1.1 unix:/worker-1"]
    machine.end("worker-1", killed(9))
    assert machine.outcome.state is OutcomeState.FAILED
