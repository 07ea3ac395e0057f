"""The engine on real processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources
from ganglion.core.run_events import (
    MetricReported,
    ResourcesSampled,
    RunFinished,
    StepFinished,
    StepStarted,
    StepUpdated,
)
from ganglion.workflow import pipeline, step

COMMON = """
    import os, time
    from pathlib import Path
    from ganglion.core.resources import Resources
    from ganglion.execution.entry import Entry
    from ganglion.execution.member import current_member
    from ganglion.execution.spec import Gang, Role
    from ganglion.workflow import as_completed, current_step, operation, pipeline, step

    SMALL = Resources(cpu=0.5)

    def wait_for(*paths):
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in paths):
            assert time.monotonic() < deadline, f"nobody made {paths}"
            time.sleep(0.01)
"""


def test_independent_steps_run_at_the_same_time_in_processes_of_their_own(local: Any, recipe: Any, tmp_path: Path):
    made = recipe(
        COMMON
        + """
    @step(resources=SMALL)
    def meet(folder: str, mine: int, count: int) -> int:
        (Path(folder) / f"here-{mine}").touch()
        wait_for(*(Path(folder) / f"here-{other}" for other in range(count)))
        current_step().report({"mine": mine})
        return os.getpid()

    @pipeline
    def meeting(folder: str):
        return [meet(folder, number, 3) for number in range(3)]
    """
    )
    recorded = local()
    result = recorded.run(made.meeting.trace({"folder": str(tmp_path)}))
    assert len(set(result.value)) == 3
    starts = [event.at for event in recorded.of(StepStarted)]
    ends = [event.at for event in recorded.of(StepFinished)]
    assert max(starts) < min(ends)
    assert {(event.step, event.value) for event in recorded.of(MetricReported)} == {
        ("meet", 0.0),
        ("meet-2", 1.0),
        ("meet-3", 2.0),
    }
    assert {event.step for event in recorded.of(ResourcesSampled)} <= {"meet", "meet-2", "meet-3"}


def test_an_as_completed_step_sees_results_in_the_order_in_which_they_come(local: Any, recipe: Any, tmp_path: Path):
    """Each execution of `watch` lets the next source finish, so the order is that of the test, not of the machine."""
    made = recipe(
        COMMON
        + """
    @step(resources=SMALL)
    def produce(folder: str, name: str) -> str:
        wait_for(Path(folder) / f"go-{name}")
        return name

    @step(resources=SMALL)
    def watch(folder: str, names: list[str]) -> list[str]:
        following = {("c",): "a", ("a", "c"): "b"}.get(tuple(names))
        if following:
            (Path(folder) / f"go-{following}").touch()
        return names

    @pipeline
    def watching(folder: str):
        sources = [produce(folder, name) for name in ("a", "b", "c")]
        return watch(folder, as_completed(sources))
    """
    )
    (tmp_path / "go-c").touch()
    recorded = local()
    result = recorded.run(made.watching.trace({"folder": str(tmp_path)}))
    assert result.value == ["a", "b", "c"]
    assert [event.result for event in recorded.of(StepUpdated, "watch")] == [["c"], ["a", "c"]]
    order = [event.step for event in recorded.of(StepFinished)]
    assert order == ["produce-3", "produce", "produce-2", "watch"]


def test_a_failing_step_stops_the_others_and_shows_its_traceback(local: Any, recipe: Any, tmp_path: Path):
    made = recipe(
        COMMON
        + """
    @step(resources=SMALL)
    def endless(folder: str) -> None:
        (Path(folder) / "running").touch()
        wait_for(Path(folder) / "never")

    @step(resources=SMALL)
    def broken(folder: str) -> None:
        wait_for(Path(folder) / "running")
        raise LookupError("the shelf is empty")

    @step
    def last(values) -> None: ...

    @pipeline
    def doomed(folder: str):
        return last([endless(folder), broken(folder)])
    """
    )
    recorded = local()
    result = recorded.run(made.doomed.trace({"folder": str(tmp_path)}))
    assert result.state == "failed"
    assert result.message.startswith("step `broken` failed on attempt 1")
    assert "the shelf is empty" in result.message
    assert 'raise LookupError("the shelf is empty")' in result.traceback
    assert {name: end.state for name, end in result.steps.items()} == {
        "broken": "failed",
        "endless": "cancelled",
        "last": "cancelled",
    }


def test_a_step_that_takes_too_long_is_stopped_and_tried_again(local: Any, recipe: Any, tmp_path: Path):
    made = recipe(
        COMMON
        + """
    @step(resources=SMALL, timeout=1.0, retries=1, backoff=0)
    def slow(folder: str) -> int:
        if current_step().attempt == 1:
            wait_for(Path(folder) / "never")
        return current_step().attempt

    @pipeline
    def hasty(folder: str):
        return slow(folder)
    """
    )
    recorded = local()
    result = recorded.run(made.hasty.trace({"folder": str(tmp_path)}))
    assert result.value == 2
    assert [end.state for end in recorded.of(StepFinished)] == ["failed", "succeeded"]


def test_cancelling_ends_the_run_and_its_processes(local: Any, recipe: Any, tmp_path: Path):
    made = recipe(
        COMMON
        + """
    @step(resources=SMALL)
    def endless(folder: str) -> None:
        current_step().report({"pid": os.getpid()})
        wait_for(Path(folder) / "never")

    @pipeline
    def patient(folder: str):
        return endless(folder)
    """
    )
    recorded = local()
    pids: list[int] = []

    def cancel_when_running(event: Any) -> None:
        if isinstance(event, MetricReported):
            pids.append(int(event.value))
            threading.Thread(target=recorded.engine.cancel).start()

    recorded.engine.listeners = (*recorded.engine.listeners, cancel_when_running)
    result = recorded.run(made.patient.trace({"folder": str(tmp_path)}))
    assert result.state == "cancelled"
    assert result.message == "cancelled by the user"
    assert not Path(f"/proc/{pids[0]}").exists()
    assert isinstance(recorded.events[-1], RunFinished)


def test_an_operation_runs_a_gang_and_its_ranks_report(local: Any, recipe: Any):
    made = recipe(
        COMMON
        + """
    def work(base: int) -> int:
        member = current_member()
        member.report({"rank": member.rank, "epoch": 1})
        return base + member.world_size

    @operation(kind="training", resources=SMALL)
    def train(host, base: int, *, workers: int) -> int:
        outcome = host.run(
            Gang(
                id=host.job_id(),
                entry=Entry(path="some_recipe:work"),
                arguments={"base": base},
                roles=(Role(count=workers),),
                resources=host.call.options.resources,
                import_path=host.call.import_path,
                labels=host.call.labels,
            )
        )
        outcome.raise_for_failure()
        return outcome.value

    @pipeline
    def gang(workers: int = 2):
        return train(40, workers=workers)
    """
    )
    recorded = local()
    assert recorded.run(made.gang.trace()).value == 42
    reported = {(event.member, event.value, event.position) for event in recorded.of(MetricReported)}
    assert reported == {("worker-0", 0.0, 1.0), ("worker-1", 1.0, 1.0)}
    result = recorded.run(made.gang.trace({"workers": 50}))
    assert result.state == "failed"
    assert SpecError.__name__ in result.message
    assert "CPUs" in result.message


def test_a_script_needs_no_module_of_its_own(python: Any, tmp_path: Path):
    """Functions and classes of `__main__` travel by value and are still recognised in the next run."""
    script = """
    from pathlib import Path
    from dataclasses import dataclass
    from ganglion.artifacts.store import FolderStore
    from ganglion.backends.local.backend import LocalBackend, LocalConfig
    from ganglion.execution.supervisor import Supervisor
    from ganglion.workflow import Engine, pipeline, step

    FACTOR = 2

    @dataclass
    class Point:
        x: int

        def doubled(self):
            return self.x * FACTOR

    def helper(x):
        return Point(x)

    @step
    def make(x: int) -> Point:
        return helper(x)

    @step
    def use(point: Point) -> int:
        return point.doubled()

    @pipeline
    def script(x: int = 21):
        return use(make(x))

    folder = Path("project").resolve()
    folder.mkdir(exist_ok=True)
    supervisor = Supervisor(LocalBackend(folder, LocalConfig(cpu=2)), folder)
    result = Engine(folder, FolderStore(folder / "store"), supervisor).run(script.trace())
    print(result.value, [end.state for end in result.steps.values()])
    supervisor.close()
    """
    assert python(script).stdout.strip() == "42 ['succeeded', 'succeeded']"
    assert python(script).stdout.strip() == "42 ['cached', 'cached']"
    assert python(script.replace("FACTOR = 2", "FACTOR = 3")).stdout.strip().startswith("63 [")


def test_what_can_never_run_is_not_tried_again(local: Any):
    @step(resources=Resources(cpu=1000.0), retries=3)
    def enormous() -> int:
        return 1

    recorded = local()
    result = recorded.run(pipeline(lambda: enormous()).trace())
    assert result.state == "failed"
    assert "1000 CPUs of" in result.message
    assert len(recorded.of(StepFinished, "enormous")) == 1
