import sys
from pathlib import Path

import numpy as np
import pytest

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.execution.entry import Entry
from ganglion.execution.supervisor import Supervisor
from ganglion.testing.faults import with_faults
from ganglion.training.plan import Factory, TrainingPlan, gang

HERE = str(Path(__file__).parent)


sys.path.insert(0, HERE)  # workers get this folder by `import_path`; tests import the same modules


@pytest.fixture
def sample():
    """A factory of something in `training_samples`."""

    def make(name, **arguments):
        return Factory(entry=Entry(path=f"training_samples:{name}"), arguments=arguments)

    return make


@pytest.fixture
def small_plan(sample):
    """A plan with the small model and the squares; every field can be replaced."""

    def make(**fields):
        defaults = {
            "model": sample("SmallModel"),
            "train": sample("squares"),
            "held_out": sample("squares", count=50, global_batch=16, seed=9, shuffle=False),
            "learning_rate": 0.01,
        }
        return TrainingPlan(**{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ganglion")
    running = Supervisor(LocalBackend(folder, LocalConfig(cpu=2.0)), folder)
    yield running
    running.close()


@pytest.fixture
def train(supervisor, tmp_path):
    """Run a plan on real worker processes and wait; `events` gets what they reported, `faults` happen to them."""
    count = 0

    def run(plan, *, workers, store=None, events=None, faults=(), **fields):
        nonlocal count
        count += 1
        spec = gang(
            plan,
            id=f"{tmp_path.name}-{count}",
            workers=workers,
            store=store,
            cpu=1 / workers,
            timeout=100,
            import_path=(HERE,),
            **fields,
        )
        if faults:
            spec = with_faults(spec, faults, tmp_path)
        return supervisor.submit(spec, events.append if events is not None else None).wait(110)

    return run


@pytest.fixture
def log(tmp_path):
    """Where the workers of `start_paced` write down what they commit."""
    folder = tmp_path / "commits"
    folder.mkdir()
    return folder


@pytest.fixture
def plan_of_steps(small_plan, sample):
    """A plan of twenty steps for each epoch on the squares, for four logical workers."""

    def make(steps, *callbacks):
        return small_plan(
            train=sample("squares", count=160, global_batch=8),
            held_out=None,
            epochs=steps // 20,
            logical_workers=4,
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def start_paced(plan_of_steps, sample, tmp_path, log):
    """Start a training whose steps take `seconds` at least, on the hosts of a supervisor."""

    def run(supervisor, *faults, steps, seconds, workers=2, listener=None):
        plan = plan_of_steps(steps, sample("WatchCommits", folder=str(log)), sample("Pace", seconds=seconds))
        spec = gang(plan, id=tmp_path.name, workers=workers, cpu=0.1, timeout=100, import_path=(HERE,))
        return supervisor.submit(with_faults(spec, faults, tmp_path), listener)

    return run


@pytest.fixture
def trained_weights(train, sample, tmp_path):
    """Run a plan and read the weights it ended with."""

    def run(plan, *, workers):
        from msgspec.structs import replace

        path = tmp_path / f"weights-{len(list(tmp_path.glob('weights-*')))}.npz"
        outcome = train(
            replace(plan, callbacks=(*plan.callbacks, sample("SaveWeights", path=str(path)))), workers=workers
        )
        outcome.raise_for_failure()
        with np.load(path) as file:
            return dict(file)

    return run
