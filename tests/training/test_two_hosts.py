"""Trainings on two hosts, between which the network fails: the side that is reached goes on, the other comes back."""

import os
import signal
import threading
import time
from functools import partial

import pytest
from commit_log import assert_each_step_once, commits, until
from hosts import Cable, Hosts

from ganglion.core.events import MemberStarted
from ganglion.execution.supervisor import Supervisor
from ganglion.testing.faults import Fault, happened
from ganglion.testing.recorder import PATIENCE

STEPS = 160


@pytest.fixture(scope="module")
def cable():
    try:
        cable = Cable()
    except OSError as error:
        pytest.skip(f"no two hosts on this machine: {error}")
    yield cable
    cable.close()


@pytest.fixture(scope="module")
def hosts(cable, tmp_path_factory):
    """A supervisor on the first of two hosts."""
    folder = tmp_path_factory.mktemp("two-hosts")
    running = cable.hosts[0].call(lambda: Supervisor(Hosts(folder, cable), folder))
    yield running
    running.close()


@pytest.fixture
def plan(plan_of_steps):
    """What is trained, without disturbance or pace."""
    return plan_of_steps(STEPS)


@pytest.fixture
def start(hosts, start_paced):
    """Start the same training, paced, on these hosts."""
    return partial(start_paced, hosts, steps=STEPS, seconds=0.02)


@pytest.mark.parametrize(("point", "silently", "seconds"), [("in_reduce", False, 3.0), ("before_reduce", True, 1.5)])
def test_the_side_that_is_reached_goes_on_and_the_other_comes_back(
    point, silently, seconds, start, train, plan, cable, log, tmp_path
):
    """The cable is cut in the middle of a step and mended after a while; nothing of it is in the result."""
    gate = Fault(kind="hold", point=point, step=20, rank=1, gate="cut")
    started = []
    job = start(gate, listener=lambda event: started.append(event) if isinstance(event, MemberStarted) else None)
    until(lambda: happened(tmp_path))
    cable.cut(silently=silently)
    cut = time.monotonic()
    try:
        (tmp_path / "cut.gate").touch()
        threading.Event().wait(seconds)
    finally:
        mended = time.monotonic()
        cable.mend()
    outcome = job.wait(PATIENCE)
    outcome.raise_for_failure()
    meanwhile = [at for _, at in commits(log, "worker-0") if cut < at < mended]
    later = [at for _, at in commits(log, "worker-1") if at > mended]
    assert len(meanwhile) > 10
    # What the first host had finished may have been on its way already.
    assert sum(cut < at < mended for _, at in commits(log, "worker-1")) <= 1
    assert len(later) > 10
    assert [event.attempt for event in started] == [1, 1]
    assert_each_step_once(log, ["worker-0", "worker-1"], STEPS)
    undisturbed = train(plan, workers=2)
    assert outcome.value["digest"] == undisturbed.value["digest"]


def test_a_stopped_worker_on_another_host_is_left_out_until_it_goes_on(start, train, plan, log):
    pids = {}

    def listen(event):
        if isinstance(event, MemberStarted):
            pids[event.member, event.attempt] = event.pid

    job = start(Fault(kind="stop", point="before_reduce", step=20, rank=1), listener=listen)
    until(lambda: commits(log, "worker-0") and commits(log, "worker-0")[-1][0] >= 40)
    assert commits(log, "worker-1")[-1][0] == 20
    os.kill(pids["worker-1", 1], signal.SIGCONT)
    outcome = job.wait(PATIENCE)
    outcome.raise_for_failure()
    assert pids.keys() == {("worker-0", 1), ("worker-1", 1)}
    assert_each_step_once(log, ["worker-0", "worker-1"], STEPS)
    assert outcome.value["digest"] == train(plan, workers=2).value["digest"]
