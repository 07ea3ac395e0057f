"""Runs go on after their orchestrator was killed: real orchestrators, real SIGKILL."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ganglion.core.run_events import RunFinished, RunStarted, StepFinished, StepStarted
from ganglion.workflow.journal import read_journal

RECIPE = """
    import time
    from pathlib import Path
    from ganglion.core.resources import Resources
    from ganglion.workflow import as_completed, current_step, operation, pipeline, step

    SMALL = Resources(cpu=0.25)

    def executed(folder):
        with open(Path(folder) / "executions", "a") as file:
            file.write(current_step().step + "\\n")

    def wait_until(happened):
        deadline = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @step(cache=False, resources=SMALL)
    def load(folder: str) -> Path:
        executed(folder)
        made = current_step().folder / "data.txt"
        made.write_text("1 2 3")
        return made

    @step(resources=SMALL)
    def fit(folder: str, data: Path, weight: int) -> int:
        executed(folder)
        if weight == 2:  # after the first model was seen, so that there always is something to lose
            wait_until(lambda: "best" in (Path(folder) / "executions").read_text())
            current_step().report({"waiting": 1})
            wait_until((Path(folder) / "gate").exists)
        return weight * sum(map(int, data.read_text().split()))

    @step(cache=False, resources=SMALL)
    def best(folder: str, scores: list[int]) -> int:
        executed(folder)
        return max(scores)

    @operation(kind="service", resumable=False)
    def serve(host, folder: str, score: int) -> str:
        with open(Path(folder) / "executions", "a") as file:
            file.write("serve\\n")
        return f"serving {score}"

    @pipeline
    def reference(folder: str):
        data = load(folder)
        scores = [fit(folder, data, weight, name=f"fit{weight}") for weight in (1, 2)]
        return serve(folder, best(folder, as_completed(scores)))
"""

ORCHESTRATOR = """
    import os, signal, sys
    from pathlib import Path
    from ganglion.artifacts.store import FolderStore
    from ganglion.backends.local.backend import LocalBackend, LocalConfig
    from ganglion.core import faults
    from ganglion.core.registry import load_file
    from ganglion.execution.supervisor import Supervisor
    from ganglion.workflow import Engine

    where, kind, step, torn = {point!r}
    def kill(name, context):
        event = context.get("event")
        if name != where or (kind and type(event).__name__ != kind):
            return
        if step and step != (event.step if event is not None else context["step"]):
            return
        if torn:
            os.write(context["file"], context["line"][: len(context["line"]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    faults.install(kill)
    folder = Path({project!r})
    folder.mkdir(exist_ok=True)
    made = load_file(Path({recipe!r}))
    supervisor = Supervisor(LocalBackend(folder, LocalConfig(cpu=4)), folder)
    Engine(folder, FolderStore(folder / "store"), supervisor).run(made.reference.trace({{"folder": {shared!r}}}))
"""


@pytest.mark.parametrize(
    "point",
    [
        ("journal.written", "RunStarted", "", False),
        ("journal.write", "StepFinished", "load", True),
        ("journal.written", "StepFinished", "load", False),
        ("journal.write", "StepFinished", "fit1", False),
        ("workflow.executed", "", "fit1", False),
        ("journal.written", "MetricReported", "fit2", False),
        ("journal.write", "RunFinished", "", True),
    ],
    ids=lambda point: "-".join(filter(None, map(str, point[:3]))) + ("-torn" if point[3] else ""),
)
def test_a_killed_orchestrator_loses_nothing_and_repeats_no_finished_step(
    local: Any, recipe: Any, python: Any, tmp_path: Path, point: tuple[str, str, str, bool]
):
    made = recipe(RECIPE)
    if point[2] != "fit2":
        (tmp_path / "gate").touch()
    script = ORCHESTRATOR.format(
        point=point, project=str(tmp_path / "project"), recipe=made.__file__, shared=str(tmp_path)
    )
    assert python(script, check=False).returncode == -9
    (folder,) = (tmp_path / "project" / "runs").iterdir()
    before = read_journal(folder)
    finished = [event.step for event in before if isinstance(event, StepFinished)]
    attempts = Counter(event.step for event in before if isinstance(event, StepStarted))
    (tmp_path / "gate").touch()

    recorded = local()
    result = recorded.run(made.reference.trace({"folder": str(tmp_path)}))
    assert result.value == "serving 12"
    assert result.resumed
    assert result.run == folder.name
    assert set(result.steps) == {"load", "fit1", "fit2", "best", "serve"}

    counts = Counter((tmp_path / "executions").read_text().split())
    for step in set(finished) - {"serve"}:  # which lives only as long as its orchestrator
        assert not [event for event in recorded.of(StepStarted, step) if event not in before], step
    for step in {"load", "fit1", "fit2"} & set(finished):
        assert counts[step] == 1
    if point[:3] == ("journal.write", "StepFinished", "fit1"):
        assert counts["fit1"] == 1  # its result was remembered before its end was journaled
    if point[1] == "RunFinished":
        assert counts["serve"] == 2
    after = read_journal(folder)
    assert after[: len(before)] == before
    assert [type(event) for event in after if isinstance(event, RunStarted | RunFinished)] == [
        RunStarted,
        RunStarted,
        RunFinished,
    ]
    for step, count in attempts.items():
        if step not in finished and result.steps[step].state == "succeeded":
            assert result.steps[step].attempt == count + 1


def test_a_finished_run_is_not_resumed_and_changed_code_or_parameters_begin_a_new_one(
    inline: Any, recipe: Any, tmp_path: Path
):
    source = """
    from ganglion.workflow import pipeline, step

    @step(cache=False)
    def half(n: int) -> int:
        if n == 13:
            raise KeyboardInterrupt
        return n // 2

    @pipeline
    def halves(n: int = 4):
        return half(n)
    """
    made = recipe(source)
    first = inline.run(made.halves.trace())
    journal = tmp_path / "project" / "runs" / first.run / "journal.jsonl"
    again = inline.run(made.halves.trace())
    assert again.run != first.run
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))  # as if it had been killed just before its end
    assert not inline.run(made.halves.trace({"n": 6})).resumed
    assert not inline.run(made.halves.trace(), resume=False).resumed
    inline.engine.seed = 1
    assert not inline.run(made.halves.trace()).resumed
    inline.engine.seed = 0
    del __import__("sys").modules["some_recipe"]
    edited = recipe(source.replace("n // 2", "n // 2 + 0"))
    assert not inline.run(edited.halves.trace()).resumed
    del __import__("sys").modules["some_recipe"]
    resumed = inline.run(recipe(source).halves.trace())
    assert (resumed.run, resumed.resumed, resumed.value) == (first.run, True, 2)


def test_a_finished_step_whose_artifact_is_gone_is_run_again_on_resumption(inline: Any, recipe: Any, tmp_path: Path):
    made = recipe(
        """
    from pathlib import Path
    from ganglion.workflow import current_step, pipeline, step

    @step(cache=False)
    def write() -> Path:
        made = current_step().folder / "data.txt"
        made.write_text(str(current_step().attempt))
        return made

    @step(cache=False)
    def read(data: Path) -> str:
        return data.read_text() + str(current_step().attempt)

    @pipeline
    def both():
        return read(write())
    """
    )
    first = inline.run(made.both.trace())
    assert first.value == "11"
    journal = tmp_path / "project" / "runs" / first.run / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-2]))  # before the end of `read`
    inline.store.delete(first.steps["write"].outputs[0].digest)
    resumed = inline.run(made.both.trace())
    assert (resumed.run, resumed.value) == (first.run, "22")
