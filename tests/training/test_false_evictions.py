"""A busy machine makes everything late; nobody is left out or replaced for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.events import MemberReported, MemberStarted
from ganglion.execution.supervisor import Supervisor
from ganglion.training.plan import gang

HERE = str(Path(__file__).parent)
STEPS = int(os.environ.get("GANGLION_SOAK_STEPS", "100000"))
STEPS_PER_EPOCH = 100


@pytest.fixture
def noise():
    """A busy loop for each core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    yield
    for loop in loops:
        loop.send_signal(signal.SIGKILL)
        loop.wait()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize("over_tcp", [False, True])
def test_nobody_is_evicted_from_a_training_on_a_busy_machine(over_tcp, small_plan, sample, tmp_path):
    """Neither left out for a while nor replaced: the membership stays what it was when the training began."""
    plan = small_plan(
        model=sample("linear"),
        train=sample("line", count=16 * STEPS_PER_EPOCH),
        held_out=None,
        input_column="features",
        target_column="target",
        loss="mean_squared_error",
        learning_rate=0.0001,
        epochs=STEPS // STEPS_PER_EPOCH,
        logical_workers=4,
        callbacks=(sample("OverTcp"),) if over_tcp else (),
    )
    backend = LocalBackend(tmp_path, LocalConfig(cpu=2.0))
    backend.control_host = "127.0.0.1" if over_tcp else None
    supervisor = Supervisor(backend, tmp_path)
    started, generations = [], set()

    def listen(event):
        if isinstance(event, MemberStarted):
            started.append((event.member, event.attempt))
        elif isinstance(event, MemberReported):
            generations.add(job.state.generation)

    try:
        job = supervisor.submit(gang(plan, id="busy", workers=2, cpu=1.0, import_path=(HERE,)), listen)
        outcome = job.wait()
    finally:
        supervisor.close()
    outcome.raise_for_failure()
    assert sorted(started) == [("worker-0", 1), ("worker-1", 1)]
    assert len(generations) == 1
    assert len(outcome.value["history"]) == STEPS // STEPS_PER_EPOCH
