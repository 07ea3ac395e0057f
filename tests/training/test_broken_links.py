"""Links between workers that fail while the controller reaches them all: some go on, the others come back."""

from functools import partial

import pytest
from commit_log import assert_each_step_once, commits, until
from hosts import Hosts, Switch

from ganglion.core.events import MemberLeftOut, MemberReturned, MemberStarted
from ganglion.execution.supervisor import Supervisor
from ganglion.testing.faults import Fault, happened
from ganglion.testing.recorder import PATIENCE

STEPS = 120


@pytest.fixture(scope="module")
def network():
    """The controller's host, and one for each of three workers."""
    try:
        switch = Switch(4)
    except OSError as error:
        pytest.skip(f"no hosts of their own on this machine: {error}")
    yield switch
    switch.close()


@pytest.fixture(scope="module")
def hosts(network, tmp_path_factory):
    """A supervisor on the first host."""
    folder = tmp_path_factory.mktemp("hosts")
    running = network.hosts[0].call(lambda: Supervisor(Hosts(folder, network), folder))
    yield running
    running.close()


@pytest.fixture
def plan(plan_of_steps):
    """What is trained, without disturbance or pace."""
    return plan_of_steps(STEPS)


@pytest.fixture
def start(hosts, start_paced):
    """Start the same training, paced, on these hosts."""
    return partial(start_paced, hosts, steps=STEPS, seconds=0.03)


def of(events, *kinds):
    return [event for event in events if isinstance(event, kinds)]


def last_step(log, member):
    return max((step for step, _ in commits(log, member)), default=0)


def assert_nobody_was_replaced(events, workers):
    assert [event.attempt for event in of(events, MemberStarted)] == [1] * workers


@pytest.mark.parametrize(
    ("point", "silently"), [("in_reduce", True), pytest.param("before_reduce", False, marks=pytest.mark.soak)]
)
def test_one_of_two_that_lose_each_other_goes_on_and_the_other_comes_back(
    point, silently, start, train, plan, network, log, tmp_path
):
    """In the middle of a step; both keep their processes, and nothing of it is in the result."""
    events = []
    job = start(Fault(kind="hold", point=point, step=20, rank=1, gate="cut"), workers=2, listener=events.append)
    until(lambda: happened(tmp_path))
    network.cut(1, 2, silently=silently)
    try:
        (tmp_path / "cut.gate").touch()
        until(lambda: of(events, MemberLeftOut))
        until(lambda: last_step(log, "worker-0") >= 30)
        assert last_step(log, "worker-1") <= 21
        assert not of(events, MemberReturned)
    finally:
        network.mend()
    outcome = job.wait(PATIENCE)
    outcome.raise_for_failure()
    assert [(event.member, event.taking_part, event.members) for event in of(events, MemberLeftOut)] == [
        ("worker-1", 1, 2)
    ]
    assert "worker-0" in of(events, MemberLeftOut)[0].reason
    assert [(event.member, event.taking_part) for event in of(events, MemberReturned)] == [("worker-1", 2)]
    assert_nobody_was_replaced(events, 2)
    assert_each_step_once(log, ["worker-0", "worker-1"], STEPS)
    assert outcome.value["digest"] == train(plan, workers=2).value["digest"]


@pytest.mark.soak
def test_workers_that_never_met_do_not_wait_for_each_other(start, train, plan, network, log, tmp_path):
    events = []
    network.cut(1, 2)
    try:
        job = start(workers=2, listener=events.append)
        until(lambda: last_step(log, "worker-0") >= 10)
    finally:
        network.mend()
    outcome = job.wait(PATIENCE)
    outcome.raise_for_failure()
    assert [event.member for event in of(events, MemberLeftOut, MemberReturned)] == ["worker-1"] * 2
    assert_nobody_was_replaced(events, 2)
    assert last_step(log, "worker-1") == STEPS
    assert outcome.value["digest"] == train(plan, workers=2).value["digest"]


def test_the_larger_side_goes_on(start, train, plan, network, log, tmp_path):
    """The first worker, which reaches neither of the others, is left out; they do not lose each other."""
    events = []
    job = start(
        Fault(kind="hold", point="before_reduce", step=20, rank=2, gate="cut"), workers=3, listener=events.append
    )
    until(lambda: happened(tmp_path))
    network.cut(1, 2)
    network.cut(1, 3)
    try:
        (tmp_path / "cut.gate").touch()
        until(lambda: last_step(log, "worker-1") >= 30 and last_step(log, "worker-2") >= 30)
        assert last_step(log, "worker-0") <= 21
    finally:
        network.mend()
    outcome = job.wait(PATIENCE)
    outcome.raise_for_failure()
    assert of(events, MemberReturned)[-1].taking_part == 3
    assert_nobody_was_replaced(events, 3)
    assert {last_step(log, f"worker-{number}") for number in range(3)} == {STEPS}
    assert outcome.value["digest"] == train(plan, workers=2).value["digest"]
