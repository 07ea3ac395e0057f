import sys

import pytest

from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import (
    MetricReported,
    ModelPublished,
    ResourcesSampled,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
)
from ganglion.metadata import frames, queries


@pytest.fixture
def filled(record):
    for number, (run, pipeline) in enumerate([("run-01-aa", "p"), ("run-01-ab", "q"), ("run-02-cc", "p")]):
        graph = [{"step": "b"}, {"step": "a"}]
        record.apply(RunStarted(at=number, run=run, pipeline=pipeline, graph=graph))
    record.apply(RunFinished(at=5, run="run-02-cc", state="failed", message="boom"))
    record.apply_all(
        MetricReported(at=at, run="run-01-aa", step=step, member="w", name=name, value=at, position=at)
        for at in (3, 1, 2)
        for step in ("a", "b")
        for name in ("loss", "accuracy")
    )
    record.apply_all(
        ResourcesSampled(at=at, run="run-01-aa", step=step, member="w", cpu_seconds=at, memory=1)
        for at in (2, 1)
        for step in ("a", "b")
    )
    return record


def test_runs_are_listed_newest_first_and_filtered(filled):
    assert [run.id for run in queries.runs(filled)] == ["run-02-cc", "run-01-ab", "run-01-aa"]
    assert [run.id for run in queries.runs(filled, pipeline="p")] == ["run-02-cc", "run-01-aa"]
    assert [run.id for run in queries.runs(filled, state="running", limit=1)] == ["run-01-ab"]
    (failed,) = queries.runs(filled, state="failed")
    assert (failed.message, failed.end, failed.steps) == ("boom", 5, {"pending": 2})
    assert len(queries.runs(filled, limit=None)) == 3


def test_run_is_found_by_an_unambiguous_prefix(filled):
    assert queries.run(filled, "run-02").id == "run-02-cc"
    assert queries.metrics(filled, "run-01-aa") == queries.metrics(filled, "run-01-a" + "a")
    filled.apply(RunStarted(at=9, run="run-02", pipeline="p"))
    assert queries.run(filled, "run-02").id == "run-02"


def test_ambiguous_prefix_names_the_candidates(filled):
    with pytest.raises(NotFoundError, match="run-01-ab, run-01-aa"):
        queries.run(filled, "run-01")
    with pytest.raises(NotFoundError, match="no run ''"):
        queries.run(filled, "")


@pytest.mark.parametrize("id", ["run-02-cd", "RUN-02", "run-0_", "%"])
def test_unknown_run_is_not_found(filled, id):
    with pytest.raises(NotFoundError, match="no run"):
        queries.run(filled, id)


def test_unknown_run_suggests_the_nearest(filled):
    for ask in (queries.run, queries.metrics, queries.resources):
        with pytest.raises(NotFoundError, match="Did you mean 'run-02-cc'"):
            ask(filled, "run-02-cd")


def test_metrics_come_oldest_first_and_filtered(filled):
    assert [point.at for point in queries.metrics(filled, "run-01-aa", step="a", name="loss")] == [1, 2, 3]
    assert {point.step for point in queries.metrics(filled, "run-01-aa", step="b")} == {"b"}
    assert len(queries.metrics(filled, "run-01-aa", name="accuracy")) == 6
    assert queries.metrics(filled, "run-01-ab") == ()


def test_resources_come_oldest_first_and_filtered(filled):
    assert [(sample.at, sample.step) for sample in queries.resources(filled, "run-01-aa")] == [
        (1, "a"),
        (1, "b"),
        (2, "a"),
        (2, "b"),
    ]
    assert len(queries.resources(filled, "run-01-aa", step="a")) == 2


def test_steps_keep_the_order_of_the_graph_and_later_ones_follow(filled):
    for at, step in ((8, "late"), (7, "early"), (6, "a")):
        filled.apply(StepStarted(at=at, run="run-01-ab", step=step, attempt=1))
    assert [step.name for step in queries.run(filled, "run-01-ab").steps] == ["b", "a", "early", "late"]


def test_running_step_shows_its_latest_metrics(record):
    def report(at, value):
        record.apply(MetricReported(at=at, run="r", step="s", member="w", name="loss", value=value))

    record.apply(StepStarted(at=1, run="r", step="s", attempt=1))
    report(2, 9.0)
    record.apply(StepFinished(at=3, run="r", step="s", attempt=1, state="failed"))
    record.apply(StepStarted(at=4, run="r", step="s", attempt=2))
    assert queries.run(record, "r").steps[0].metrics == {}
    report(6, 0.5)
    report(5, 0.7)
    assert queries.run(record, "r").steps[0].metrics == {"loss": 0.5}
    record.apply(StepFinished(at=7, run="r", step="s", attempt=2, state="succeeded", metrics={"loss": 0.4}))
    assert queries.run(record, "r").steps[0].metrics == {"loss": 0.4}


def test_model_versions_and_their_aliases(record):
    for version, aliases in ((1, ("champion", "first")), (2, ()), (10, ("champion",))):
        record.apply(
            ModelPublished(
                at=version,
                run="r",
                step="select",
                model="fashion",
                version=version,
                digest=f"d{version}",
                metrics={"accuracy": 0.9},
                aliases=aliases,
            )
        )
    record.apply(ModelPublished(at=3, run="other", step="s", model="digits", version=1, digest="x"))
    listed = queries.model_versions(record)
    assert [(info.model, info.version, info.aliases) for info in listed] == [
        ("digits", 1, ()),
        ("fashion", 10, ("champion",)),
        ("fashion", 2, ()),
        ("fashion", 1, ("first",)),
    ]
    assert queries.model_versions(record, "fashion") == listed[1:] == queries.run(record, "r").models
    assert listed[1].metrics == {"accuracy": 0.9}
    assert queries.model_versions(record, "absent") == ()


def test_metrics_frame(filled):
    frame = frames.metrics_frame(filled, "run-01-aa")
    assert list(frame.columns) == ["at", "step", "member", "name", "value", "position"]
    assert len(frame) == 12
    assert str(frame["at"].dt.tz) == "UTC"
    assert frame["at"].iloc[-1].timestamp() == 3
    assert frame[frame["name"] == "loss"].groupby("step")["value"].max().to_dict() == {"a": 3, "b": 3}
    empty = frames.metrics_frame(filled, "run-01-ab")
    assert len(empty) == 0
    assert dict(empty.dtypes) == dict(frame.dtypes)


WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None
from pathlib import Path
from ganglion.core.errors import UserError
from ganglion.metadata.frames import metrics_frame
from ganglion.metadata.record import Record
with Record.open(Path(sys.argv[1])) as record:
    try:
        metrics_frame(record, "r")
    except UserError as error:
        print(error)
"""


def test_missing_pandas_names_the_extra(tmp_path, run_python):
    output, error = run_python(WITHOUT_PANDAS, tmp_path / "record.db").communicate()
    assert "ganglion[notebook]" in output, error


def test_package_alone_does_not_load_the_database_library(run_python):
    script = "import sys, ganglion.metadata; print('sqlalchemy' in sys.modules)"
    output, error = run_python(script).communicate()
    assert output == "False\n", error
    assert "sqlalchemy" in sys.modules
