"""The life of a job, driven by lists of signals; no process is started."""

from __future__ import annotations

import pytest
from lifecycle_driver import (
    CRASH,
    ENTRY,
    SUCCESS,
    Driver,
    gang,
    killed,
    of,
    released,
    reserved,
    service,
    starts,
    stops,
    task,
    told,
)

from ganglion.core.events import ExitKind
from ganglion.core.resources import Resources
from ganglion.execution.exits import AgentReport, Evidence
from ganglion.execution.instructions import Finish, Release, Start
from ganglion.execution.lifecycle import FAILURE_GRACE
from ganglion.execution.outcome import OutcomeState
from ganglion.execution.signals import (
    Accused,
    Admitted,
    Alive,
    Cancel,
    Drain,
    Ended,
    Joined,
    Ready,
    Replace,
    Scale,
    Tick,
)
from ganglion.execution.spec import Gang, Restart, Role

# admission


def test_nothing_starts_before_the_resources_are_there():
    machine = Driver(task())
    assert machine.deadline is None
    machine.submit()
    assert reserved(machine.last) == [["task-0"]]
    assert machine.tick(1000.0) == []
    assert starts(machine.admit()) == [("task-0", 1)]


def test_the_admission_deadline_counts_from_the_submission():
    machine = Driver(task(admission_timeout=5.0, resources=Resources(cpu=2.0)), now=1e6)
    assert machine.deadline is None
    assert machine.tick() == []
    machine.submit()
    assert machine.deadline == 1e6 + 5.0
    assert machine.tick(4.9) == []
    orders = machine.tick_at_deadline()
    assert machine.outcome.state is OutcomeState.FAILED
    assert machine.outcome.message == "no resources within 5 s (needs 2 CPU)"
    assert released(orders) == [["task-0"]]
    assert machine.admit() == []


def test_admission_in_time_ends_the_admission_deadline():
    machine = Driver(task(admission_timeout=5.0)).submit()
    machine.admit(after=4.0)
    assert machine.deadline is None
    assert machine.tick(100.0) == []


def test_a_gang_is_reserved_and_started_as_a_whole():
    machine = Driver(gang(3)).submit()
    assert reserved(machine.last) == [["worker-0", "worker-1", "worker-2"]]
    assert starts(machine.admit()) == [("worker-0", 1), ("worker-1", 1), ("worker-2", 1)]


def test_members_beyond_the_minimum_are_reserved_one_by_one_once_the_minimum_has_its_place():
    machine = Driver(gang(4, minimum=2)).submit()
    assert reserved(machine.last) == [["worker-0", "worker-1"]]
    orders = machine.admit("worker-0", "worker-1")
    assert starts(orders) == [("worker-0", 1), ("worker-1", 1)]
    assert reserved(orders) == [["worker-2"], ["worker-3"]]
    assert starts(machine.admit("worker-3")) == [("worker-3", 1)]


def test_each_replica_is_reserved_alone():
    machine = Driver(service(2, admission_timeout=5.0)).submit()
    assert reserved(machine.last) == [["replica-0"], ["replica-1"]]
    machine.admit("replica-1")
    assert machine.deadline == machine.now + 60.0
    assert machine.member("replica-0").phase == "waiting"


def test_a_service_of_no_replicas_waits_without_a_deadline():
    machine = Driver(service(0, admission_timeout=5.0)).submit()
    assert machine.deadline is None
    assert machine.tick(1000.0) == []
    assert reserved(machine.tell(Scale(1))) == [["replica-0"]]


def test_a_service_scaled_to_nothing_before_its_admission_does_not_fail():
    machine = Driver(service(1, admission_timeout=5.0)).submit()
    assert released(machine.tell(Scale(0))) == [["replica-0"]]
    assert machine.tick(10.0) == []
    machine.tell(Scale(1))
    assert starts(machine.admit("replica-1")) == [("replica-1", 1)]


# membership


def test_a_gang_hears_of_its_membership_once_everybody_has_joined():
    machine = Driver(gang(3)).submit()
    machine.admit()
    assert machine.join("worker-2", "worker-0") == []
    orders = machine.join("worker-1")
    (broadcast,) = orders
    assert told(orders) == [["worker-0", "worker-1", "worker-2"]]
    assert broadcast.membership.generation == 1
    assert [peer.rank for peer in broadcast.membership.peers] == [0, 1, 2]
    assert broadcast.membership.peers[2].address == "10.0.0.1:worker-2.1"


def test_a_member_that_joins_twice_is_told_nothing_new():
    machine = Driver(gang(2)).run()
    assert machine.join("worker-0") == []


def test_tasks_and_services_have_no_membership():
    for spec in (task(), service()):
        assert told(Driver(spec).run().history) == []


def test_a_gang_grows_and_everybody_hears_of_it():
    machine = Driver(gang(3, minimum=2)).submit()
    machine.admit("worker-0", "worker-1")
    machine.admit("worker-2")
    assert told(machine.join("worker-0", "worker-1")) == [["worker-0", "worker-1"]]
    assert told(machine.join("worker-2")) == [["worker-0", "worker-1", "worker-2"]]
    assert machine.state.generation == 2


def test_the_membership_keeps_members_that_serve():
    machine = Driver(gang(3, minimum=2)).submit()
    machine.admit("worker-0", "worker-1")
    machine.join("worker-0", "worker-1")
    machine.ready("worker-0")
    machine.admit("worker-2")
    assert told(machine.join("worker-2")) == [["worker-0", "worker-1", "worker-2"]]


# ends


def test_a_task_succeeds_with_its_value():
    machine = Driver(task()).run()
    orders = machine.end("task-0")
    assert [type(order) for order in orders] == [Release, Finish]
    assert (machine.outcome.state, machine.outcome.value, machine.outcome.message) == (OutcomeState.SUCCEEDED, 7, "")


def test_a_gang_succeeds_when_all_its_members_have():
    machine = Driver(gang(2)).run()
    assert machine.end("worker-1") == []
    machine.end("worker-0", Evidence(code=0, report=AgentReport(succeeded=True, value="first")))
    assert machine.outcome.succeeded
    assert machine.outcome.value == "first"
    assert list(machine.outcome.exits) == ["worker-0", "worker-1"]


def test_a_gang_does_not_wait_for_members_that_never_got_a_place():
    machine = Driver(gang(2, minimum=1)).submit()
    machine.admit("worker-0")
    machine.join("worker-0")
    machine.end("worker-0")
    assert machine.outcome.succeeded
    assert list(machine.outcome.exits) == ["worker-0"]


def test_a_gang_waits_for_members_that_did():
    machine = Driver(gang(2, minimum=1)).run()
    assert machine.end("worker-0") == []
    machine.end("worker-1")
    assert machine.outcome.succeeded


def test_parameter_servers_are_drained_once_the_workers_are_done():
    roles = (Role(name="ps", completes=False), Role(count=2))
    machine = Driver(Gang(id="job", entry=ENTRY, roles=roles, grace=9.0)).run()
    assert machine.end("worker-0") == []
    assert stops(machine.end("worker-1")) == [("ps-0", 9.0)]
    machine.end("ps-0", killed())
    assert machine.outcome.succeeded
    assert machine.outcome.exits["ps-0"].kind is ExitKind.SUCCESS


def test_parameter_servers_alone_do_not_end_a_gang_whose_workers_have_yet_to_come():
    roles = (Role(name="ps", completes=False), Role(count=2, minimum=0))
    machine = Driver(Gang(id="job", entry=ENTRY, roles=roles)).submit()
    orders = machine.admit("ps-0")
    assert (starts(orders), stops(orders)) == ([("ps-0", 1)], [])
    machine.join("ps-0")
    machine.admit("worker-0")
    machine.join("worker-0")
    assert stops(machine.end("worker-0")) == [("ps-0", 5.0)]


def test_a_failure_without_a_budget_stops_the_others_at_once_and_names_the_culprit():
    machine = Driver(gang(3, grace=60.0)).run()
    assert stops(machine.end("worker-1", CRASH)) == [("worker-0", FAILURE_GRACE), ("worker-2", FAILURE_GRACE)]
    machine.end("worker-0", killed())
    machine.end("worker-2", killed(9))
    outcome = machine.outcome
    assert (outcome.state, outcome.culprit) == (OutcomeState.FAILED, "worker-1")
    assert outcome.message == "worker-1 exception: exited with status 1 and no report"
    assert [exit_.kind for exit_ in outcome.exits.values()] == [
        ExitKind.CANCELLED,
        ExitKind.EXCEPTION,
        ExitKind.CANCELLED,
    ]


def test_only_the_first_failure_is_the_culprit():
    machine = Driver(gang(2)).run()
    machine.end("worker-1", CRASH)
    machine.end("worker-0", CRASH)
    assert machine.outcome.culprit == "worker-1"


def test_a_process_that_could_not_be_created_is_a_failure():
    machine = Driver(task()).submit()
    machine.admit()
    machine.end("task-0", Evidence(note="could not be started: no space"))
    assert machine.outcome.message == "task-0 lost: could not be started: no space"


# drain and cancel


def test_draining_a_service_is_a_success():
    machine = Driver(service(2, grace=7.0)).run()
    assert stops(machine.tell(Drain())) == [("replica-0", 7.0), ("replica-1", 7.0)]
    machine.end("replica-0")
    machine.end("replica-1", killed(9))
    assert machine.outcome.succeeded


def test_cancelling_what_drains_cuts_its_grace_short():
    machine = Driver(service(2, grace=60.0)).run()
    machine.tell(Drain())
    machine.end("replica-0")
    assert stops(machine.tell(Cancel())) == [("replica-1", FAILURE_GRACE)]
    machine.end("replica-1", killed(9))
    assert machine.outcome.succeeded


def test_a_drained_member_is_not_restarted():
    machine = Driver(task(restart=Restart(budget=5))).run()
    machine.tell(Drain())
    assert starts(machine.end("task-0", CRASH)) == []
    assert machine.state.outcome is not None


def test_cancel_before_admission_withdraws_the_request():
    machine = Driver(gang(2)).submit()
    orders = machine.tell(Cancel())
    assert [type(order) for order in orders] == [Release, Finish]
    assert (machine.outcome.state, machine.outcome.exits) == (OutcomeState.CANCELLED, {})


@pytest.mark.parametrize("joined", [False, True])
def test_cancel_stops_what_starts_or_runs_and_waits_for_it(joined):
    machine = Driver(gang(2, grace=3.0)).submit()
    machine.admit()
    if joined:
        machine.join("worker-0", "worker-1")
    assert stops(machine.tell(Cancel())) == [("worker-0", 3.0), ("worker-1", 3.0)]
    assert machine.end("worker-0", killed()) == []
    machine.end("worker-1", killed())
    assert machine.outcome.state is OutcomeState.CANCELLED
    assert {exit_.kind for exit_ in machine.outcome.exits.values()} == {ExitKind.CANCELLED}


def test_cancel_ends_a_back_off():
    machine = Driver(task(restart=Restart(budget=1))).run()
    machine.end("task-0", CRASH)
    machine.tell(Cancel())
    assert machine.outcome.state is OutcomeState.CANCELLED
    assert machine.outcome.exits["task-0"].kind is ExitKind.EXCEPTION


def test_cancel_ends_a_regrouping():
    machine = Driver(gang(3, restart=Restart(budget=1))).run()
    machine.end("worker-0", CRASH)
    assert machine.tell(Cancel()) == []
    machine.end("worker-1", killed())
    assert starts(machine.end("worker-2", killed())) == []
    assert machine.outcome.state is OutcomeState.CANCELLED


def test_a_failure_that_is_being_settled_cannot_be_cancelled_any_more():
    machine = Driver(gang(2)).run()
    machine.end("worker-0", CRASH)
    machine.tell(Cancel())
    machine.end("worker-1", killed())
    assert machine.outcome.state is OutcomeState.FAILED


def test_resources_that_come_after_the_cancellation_start_nothing():
    machine = Driver(gang(3, minimum=2)).submit()
    machine.admit("worker-0", "worker-1")
    machine.tell(Cancel())
    assert machine.admit("worker-2") == []


# scaling and replacing


def test_a_service_scales_and_never_uses_an_index_twice():
    machine = Driver(service(1, grace=4.0)).run()
    assert reserved(machine.tell(Scale(3))) == [["replica-1"], ["replica-2"]]
    machine.admit("replica-1")
    machine.admit("replica-2")
    machine.join("replica-1", "replica-2")
    assert stops(machine.tell(Scale(1))) == [("replica-1", 4.0), ("replica-2", 4.0)]
    assert released(machine.end("replica-1", killed())) == [["replica-1"]]
    assert reserved(machine.tell(Scale(2))) == [["replica-3"]]
    orders = machine.end("replica-2")
    assert (released(orders), starts(orders)) == ([["replica-2"]], [])
    assert machine.phases() == ["running", "gone", "gone", "waiting"]


def test_scaling_to_the_present_number_changes_nothing():
    machine = Driver(service(2)).run()
    assert machine.tell(Scale(2)) == []


def test_a_replica_that_waits_or_backs_off_leaves_at_once():
    machine = Driver(service(3, restart=Restart(budget=-1, backoff=9.0, alone=True))).submit()
    machine.admit("replica-0")
    machine.admit("replica-1")
    machine.join("replica-0", "replica-1")
    machine.end("replica-1", CRASH)
    assert released(machine.tell(Scale(1))) == [["replica-1"], ["replica-2"]]
    assert machine.deadline == machine.member("replica-0").since + 60.0
    assert machine.admit("replica-2") == []


def test_a_service_scales_to_nothing_and_back():
    machine = Driver(service(1)).run()
    machine.tell(Scale(0))
    machine.end("replica-0", killed())
    assert machine.state.outcome is None
    machine.tell(Scale(1))
    assert starts(machine.admit("replica-1")) == [("replica-1", 1)]


def test_only_services_scale():
    machine = Driver(gang(2)).run()
    assert machine.tell(Scale(5)) == []


def test_a_replaced_member_starts_again_at_once_and_no_failure_is_counted():
    machine = Driver(gang(2, grace=8.0, restart=Restart(budget=0))).run()
    assert stops(machine.tell(Replace("worker-0"))) == [("worker-0", 8.0)]
    assert starts(machine.end("worker-0", killed())) == [("worker-0", 2)]
    assert machine.state.restarts == 0
    assert told(machine.join("worker-0")) == [["worker-0", "worker-1"]]


def test_an_accused_replica_is_killed_at_once_and_started_again_as_after_a_failure():
    machine = Driver(service(2, grace=8.0, restart=Restart(budget=-1, backoff=1.0, alone=True))).run()
    machine.ready("replica-0")
    assert stops(machine.tell(Accused("replica-0", 2))) == [], "that attempt is not running"
    assert stops(machine.tell(Accused("replica-0", 1))) == [("replica-0", 0.0)]
    assert stops(machine.tell(Accused("replica-0", 1))) == []
    assert starts(machine.end("replica-0", killed(9))) == []
    assert machine.member("replica-0").exit.kind is ExitKind.LOST
    assert starts(machine.tick_at_deadline()) == [("replica-0", 2)]


def test_a_member_replaced_before_it_is_scaled_away_leaves():
    machine = Driver(service(1)).run()
    machine.tell(Replace("replica-0"))
    machine.tell(Scale(0))
    orders = machine.end("replica-0", killed())
    assert (starts(orders), released(orders)) == ([], [["replica-0"]])


def test_replacing_nobody_changes_nothing():
    machine = Driver(task()).run()
    assert machine.tell(Replace("worker-9")) == []


# limits of time


def test_a_time_out_counts_from_the_start_of_the_attempt():
    machine = Driver(task(timeout=10.0, grace=2.0)).submit()
    machine.admit(after=100.0)
    assert machine.deadline == machine.now + 10.0
    assert machine.tick(9.9) == []
    assert stops(machine.tick_at_deadline()) == [("task-0", 2.0)]
    assert machine.deadline is None
    machine.end("task-0", killed(9))
    assert machine.outcome.message == "task-0 timed_out: stopped because its time was up"


def test_what_ended_well_in_spite_of_its_time_out_is_a_success():
    machine = Driver(task(timeout=10.0)).run()
    machine.tick(10.0)
    machine.end("task-0", SUCCESS)
    assert machine.outcome.succeeded


def test_any_signal_enforces_the_limits():
    machine = Driver(gang(2, timeout=10.0)).run()
    assert [name for name, _ in stops(machine.tell(Alive("worker-0", 1), after=10.0))] == ["worker-0", "worker-1"]


def test_a_replica_has_to_become_ready_in_time_in_each_attempt():
    spec = service(1, readiness_timeout=3.0, restart=Restart(budget=1, backoff=1.0, alone=True))
    machine = Driver(spec).run()
    for _ in range(2):
        assert stops(machine.tick_at_deadline()) != []
        machine.end("replica-0", killed())
        if machine.state.outcome is None:
            machine.tick_at_deadline()
    assert machine.outcome.exits["replica-0"].kind is ExitKind.TIMED_OUT


def test_a_ready_replica_has_no_more_deadline():
    machine = Driver(service(1, readiness_timeout=3.0)).run()
    machine.ready("replica-0")
    assert machine.deadline is None
    assert machine.member("replica-0").endpoint == "unix:/replica-0"


def test_a_replica_that_dials_again_with_its_endpoint_is_ready():
    machine = Driver(service(1)).submit()
    machine.admit()
    machine.tell(Joined("replica-0", 1, "10.0.0.1", "tcp:10.0.0.1:80"))
    assert (machine.member("replica-0").phase, machine.member("replica-0").endpoint) == ("ready", "tcp:10.0.0.1:80")


def test_a_member_without_a_sign_of_life_is_given_up():
    machine = Driver(task(lost_after=5.0)).submit()
    machine.admit()
    assert machine.deadline is None
    machine.join("task-0")
    machine.tell(Alive("task-0", 1), after=4.0)
    assert machine.deadline == machine.now + 5.0
    assert stops(machine.tick_at_deadline()) == [("task-0", 5.0)]
    machine.end("task-0", killed(9))
    assert machine.outcome.exits["task-0"].kind is ExitKind.LOST


# what comes too late


@pytest.mark.parametrize(
    "late",
    [
        Joined("task-0", 1, "10.0.0.9:1"),
        Ready("task-0", 1, "unix:/old"),
        Alive("task-0", 1),
        Ended("task-0", 1, CRASH),
        Admitted(("task-0",)),
        Ended("task-7", 1, CRASH),
        Tick(),
    ],
)
def test_signals_of_earlier_attempts_and_strangers_change_nothing(late):
    machine = Driver(task(restart=Restart(budget=1, backoff=1.0))).run()
    machine.end("task-0", CRASH)
    machine.tick_at_deadline()
    before = machine.state
    assert machine.tell(late) == []
    assert machine.state == before


@pytest.mark.parametrize(
    "late", [Cancel(), Drain(), Tick(), Replace("task-0"), Admitted(("task-0",)), Ended("task-0", 1, CRASH), Scale(3)]
)
def test_nothing_follows_the_end(late):
    machine = Driver(task(restart=Restart(budget=1))).run()
    machine.end("task-0")
    before = machine.state
    assert machine.tell(late, after=1e6) == []
    assert machine.state == before
    assert machine.deadline is None
    assert len(machine.all(Finish)) == len(machine.all(Release)) == 1


def test_the_machine_does_not_change_the_state_it_is_given():
    machine = Driver(gang(2)).submit()
    before, copy = machine.state, repr(machine.state)
    machine.admit()
    assert machine.all(Start)
    assert repr(before) == copy
    assert of(machine.last, Finish) == []
