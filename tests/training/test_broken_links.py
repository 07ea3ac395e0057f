"""Links between workers that fail while the controller reaches them all: some go on, the others come back."""

from pathlib import Path

import pytest
from commit_log import assert_each_step_once, commits, until
from hosts import Hosts, Switch

from ganglion.core.events import MemberLeftOut, MemberReturned, MemberStarted
from ganglion.execution.supervisor import Supervisor
from ganglion.testing.faults import Fault, happened, with_faults
from ganglion.testing.recorder import PATIENCE
from ganglion.training.plan import gang

HERE = str(Path(__file__).parent)
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
def plan(small_plan, sample):
    def make(*callbacks):
        return small_plan(
            train=sample("squares", count=160, global_batch=8),
            held_out=None,
            epochs=STEPS // 20,
            logical_workers=4,
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "commits"
    folder.mkdir()
    return folder


@pytest.fixture
def start(hosts, plan, sample, tmp_path, log):
    """Start a training of paced steps; what happens to its members goes to `events`."""

    def run(*faults, workers, events):
        callbacks = (sample("WatchCommits", folder=str(log)), sample("Pace", seconds=0.03))
        spec = gang(plan(*callbacks), id=tmp_path.name, workers=workers, cpu=0.1, timeout=100, import_path=(HERE,))
        return hosts.submit(with_faults(spec, faults, tmp_path), events.append)

    return run


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
    job = start(Fault(kind="hold", point=point, step=20, rank=1, gate="cut"), workers=2, events=events)
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
    assert outcome.value["digest"] == train(plan(), workers=2).value["digest"]


@pytest.mark.soak
def test_workers_that_never_met_do_not_wait_for_each_other(start, train, plan, network, log, tmp_path):
    events = []
    network.cut(1, 2)
    try:
        job = start(workers=2, events=events)
        until(lambda: last_step(log, "worker-0") >= 10)
    finally:
        network.mend()
    outcome = job.wait(PATIENCE)
    outcome.raise_for_failure()
    assert [event.member for event in of(events, MemberLeftOut, MemberReturned)] == ["worker-1"] * 2
    assert_nobody_was_replaced(events, 2)
    assert last_step(log, "worker-1") == STEPS
    assert outcome.value["digest"] == train(plan(), workers=2).value["digest"]


def test_the_larger_side_goes_on(start, train, plan, network, log, tmp_path):
    """The first worker, which reaches neither of the others, is left out; they do not lose each other."""
    events = []
    job = start(Fault(kind="hold", point="before_reduce", step=20, rank=2, gate="cut"), workers=3, events=events)
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
    assert outcome.value["digest"] == train(plan(), workers=2).value["digest"]
