"""More means for the records of a training: the same records, and no option made less."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.artifacts.store import FolderStore
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.ids import RandomIds
from ganglion.data import ArraySource, prepare
from ganglion.execution.entry import Entry, entry_of
from ganglion.execution.supervisor import Supervisor
from ganglion.pipelines.faster_input import ReadAhead, faster_input, open_ahead
from ganglion.pipelines.train import Training
from ganglion.training import Factory, TrainingPlan, gang

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # workers get this folder by `import_path`; the modules there are found by their names

from slow_points import doubled, network, training  # noqa: E402  # after the path


class Numbers:
    """Numbers that say which epoch, step and record they are; read by whoever asks first."""

    def __init__(self, *, steps: int = 9, global_batch: int = 4, fails_at: int = -1) -> None:
        self.steps_per_epoch, self.global_batch, self.count = steps, global_batch, steps * global_batch
        self._fails_at = fails_at

    def batches(self, epoch, *, first, last, of, start=0):
        for step in range(start, self.steps_per_epoch):
            if step == self._fails_at:
                raise ValueError(f"step {step}")
            records = np.arange(self.global_batch) + 100 * step + 10_000 * epoch
            yield {"x": records[first * self.global_batch // of : last * self.global_batch // of]}


def values(batches):
    return [batch["x"].tolist() for batch in batches]


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 23), st.integers(0, 22), st.integers(0, 2), st.integers(1, 4))
def test_what_is_read_ahead_is_what_the_source_gives(readers, steps, start, epoch, logical):
    start = min(start, steps - 1)
    ahead = ReadAhead([Numbers(steps=steps) for _ in range(readers)])
    for worker in range(logical):
        asked = {"first": worker, "last": worker + 1, "of": logical, "start": start}
        assert values(ahead.batches(epoch, **asked)) == values(Numbers(steps=steps).batches(epoch, **asked))


def test_leaving_in_the_middle_ends_the_threads_and_errors_come_in_their_place():
    before = threading.active_count()
    batches = ReadAhead([Numbers(steps=40) for _ in range(3)]).batches(0, first=0, last=1, of=1)
    next(batches)
    batches.close()
    assert threading.active_count() == before

    failing = ReadAhead([Numbers(fails_at=7) for _ in range(2)]).batches(0, first=0, last=1, of=1)
    assert [next(failing)["x"][0] for _ in range(7)] == [0, 100, 200, 300, 400, 500, 600]
    with pytest.raises(ValueError, match="step 7"):
        next(failing)
    assert threading.active_count() == before


def test_a_source_of_ones_own_is_read_ahead_once_and_is_given_what_the_plan_adds():
    source = Factory(entry=Entry(path=f"{__name__}:Numbers"), arguments={"steps": 5})
    plan = TrainingPlan(model=source, train=source)
    fixed, changes = faster_input(plan, workers=2)
    assert fixed.train.entry.path == "ganglion.pipelines.faster_input:open_ahead"
    assert "4 threads read ahead" in changes[0]
    assert faster_input(fixed, workers=2) == (fixed, ())
    arguments = fixed.train.arguments | {"global_batch": 6}  # as `TrainingPlan.for_workers` adds it
    arguments["source"] = {"entry": {"path": "fractions:Fraction"}, "arguments": {"numerator": 1}}
    with pytest.raises(TypeError, match="global_batch"):
        open_ahead(**arguments)


def test_a_loader_gets_threads_or_processes_and_nothing_that_was_asked_for_is_less(tmp_path):
    store = FolderStore(tmp_path)
    source = ArraySource({"point": np.zeros((40, 3), np.float32), "label": np.zeros(40, np.int64)})
    plan = Training(dict, source, input_column="point").plan(prepare(source, store), store)

    def options(**given):
        train = Factory(entry=plan.train.entry, arguments={**plan.train.arguments, **given})
        fixed = faster_input(TrainingPlan(model=plan.model, train=train), workers=1).plan
        return {name: fixed.train.arguments.get(name) for name in ("parallel", "workers", "memory")}

    assert options() == {"parallel": 4, "workers": None, "memory": None}
    assert options(parallel=9) == {"parallel": 9, "workers": None, "memory": None}
    transforms = [{"type": "ganglion.data.transforms.flip:Flip"}]
    assert options(transforms=transforms)["workers"] == "processes"
    assert options(transforms=transforms, workers="threads")["workers"] == "threads"
    assert options(memory=2**20)["memory"] == 512 * 2**20
    assert options(memory=2**30)["memory"] == 2**30


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run plans on a worker of their own; their results."""
    folder = tmp_path_factory.mktemp("ganglion")
    with_workers = Supervisor(LocalBackend(folder, LocalConfig(cpu=1.0)), folder)

    def run(*plans):
        found = []
        for plan in plans:
            spec = gang(plan, id=RandomIds().new("training"), workers=1, timeout=60, import_path=(HERE,))
            outcome = with_workers.submit(spec).wait(80)
            outcome.raise_for_failure()
            found.append(outcome.value)
        return found

    yield run
    with_workers.close()


def test_a_training_that_waits_for_its_records_is_faster_then_and_its_result_the_same(results):
    slow, fast = results(training, faster_input(training, workers=1).plan)
    assert slow["diagnosis"]["bound"] == "input"
    assert fast["diagnosis"]["step_seconds"] < 0.75 * slow["diagnosis"]["step_seconds"]
    assert fast["digest"] == slow["digest"]


def test_processes_for_transforms_leave_the_result_the_same(results, tmp_path):
    store = FolderStore(tmp_path)
    points = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    source = ArraySource({"point": points, "label": (points.sum(1) > 0).astype(np.int64)})
    plan = Training(network, source, input_column="point", global_batch=16).plan(prepare(source, store), store)
    transforms = [{"type": "ganglion.data.transforms.map:Map", "function": {"entry": {"path": entry_of(doubled).path}}}]
    train = Factory(entry=plan.train.entry, arguments={**plan.train.arguments, "transforms": transforms})
    plan = msgspec.structs.replace(plan, train=train, held_out=None)
    fixed = faster_input(plan, workers=1).plan
    assert fixed.train.arguments["workers"] == "processes"
    threads, processes = results(plan, fixed)
    assert processes["digest"] == threads["digest"]
