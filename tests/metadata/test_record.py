import math

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import (
    AnyRunEvent,
    ArtifactReference,
    MetricReported,
    ModelPublished,
    ResourcesSampled,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    StepUpdated,
)
from ganglion.metadata import queries

GRAPH = [
    {"step": "ingest", "kind": "step", "needs": []},
    {"step": "train", "kind": "train", "needs": ["ingest"]},
]


def artifact(name: str) -> ArtifactReference:
    return ArtifactReference(digest=f"sha256:{name}", kind="data", size=3)


JOURNAL: list[AnyRunEvent] = [
    RunStarted(at=1, run="r", pipeline="p.py:main", parameters={"lr": 0.1}, seed=7, graph=GRAPH),
    StepStarted(at=2, run="r", step="ingest", attempt=1, fingerprint="f1", cache="miss: no earlier result"),
    StepFinished(
        at=3, run="r", step="ingest", attempt=1, state="succeeded", outputs=(artifact("data"),), result=[1, {"a": None}]
    ),
    StepStarted(at=4, run="r", step="train", attempt=1, fingerprint="f2"),
    MetricReported(at=5, run="r", step="train", member="worker-0", name="loss", value=math.inf, position=1),
    MetricReported(at=6, run="r", step="train", member="worker-0", name="loss", value=math.nan, position=2),
    ResourcesSampled(at=6, run="r", step="train", member="worker-0", cpu_seconds=1, memory=2**40),
    StepUpdated(at=6, run="r", step="train", attempt=1, result="half"),
    StepFinished(at=7, run="r", step="train", attempt=1, state="failed", message="boom", traceback="Traceback: boom"),
    StepStarted(at=8, run="r", step="train", attempt=2, fingerprint="f2"),
    StepFinished(
        at=9,
        run="r",
        step="train",
        attempt=2,
        state="succeeded",
        inputs=(artifact("data"),),
        outputs=(artifact("model"),),
        metrics={"accuracy": 0.9},
    ),
    ModelPublished(at=10, run="r", step="train", model="m", version=1, digest="sha256:model", aliases=("champion",)),
    RunFinished(at=11, run="r", state="succeeded"),
]


def test_journal_becomes_a_run(record):
    record.apply_all(JOURNAL)
    run = queries.run(record, "r")
    assert (run.pipeline, run.state, run.start, run.end) == ("p.py:main", "succeeded", 1, 11)
    assert (run.parameters, run.seed, run.graph) == ({"lr": 0.1}, 7, GRAPH)
    ingest, train = run.steps
    assert (ingest.name, ingest.kind, ingest.state, ingest.start, ingest.end) == ("ingest", "step", "succeeded", 2, 3)
    assert (ingest.fingerprint, ingest.cache, ingest.result) == ("f1", "miss: no earlier result", [1, {"a": None}])
    assert ingest.outputs == (artifact("data"),)
    assert (train.state, train.start, train.end, train.metrics) == ("succeeded", 8, 9, {"accuracy": 0.9})
    assert (train.message, train.traceback, train.result) == ("", None, None)
    first, second = train.attempts
    assert (first.state, first.start, first.end, first.message, first.traceback) == (
        "failed",
        4,
        7,
        "boom",
        "Traceback: boom",
    )
    assert (second.state, second.start, second.end, second.message) == ("succeeded", 8, 9, "")


def test_steps_wait_before_they_start(record):
    record.apply(JOURNAL[0])
    assert [(step.name, step.state, step.start) for step in queries.run(record, "r").steps] == [
        ("ingest", "pending", None),
        ("train", "pending", None),
    ]


def test_skipped_step_has_a_reason_and_no_attempt(record):
    record.apply(JOURNAL[0])
    hit = "hit: same code and inputs as run-1"
    record.apply(StepFinished(at=2, run="r", step="ingest", attempt=0, state="cached", fingerprint="f", cache=hit))
    ingest = queries.run(record, "r").steps[0]
    assert (ingest.state, ingest.cache, ingest.attempts, ingest.start, ingest.end) == ("cached", hit, (), 2, 2)


def test_intermediate_result_is_replaced_by_the_final_one(record):
    record.apply(StepStarted(at=1, run="r", step="serve", attempt=1))
    record.apply(StepUpdated(at=2, run="r", step="serve", attempt=1, result="first"))
    assert queries.run(record, "r").steps[0].result == "first"
    record.apply(StepFinished(at=3, run="r", step="serve", attempt=1, state="succeeded", result="last"))
    assert queries.run(record, "r").steps[0].result == "last"


def test_word_of_an_earlier_attempt_does_not_touch_the_step(record):
    record.apply(StepStarted(at=1, run="r", step="train", attempt=1))
    record.apply(StepStarted(at=2, run="r", step="train", attempt=2))
    record.apply(StepFinished(at=3, run="r", step="train", attempt=1, state="failed", message="late"))
    (step,) = queries.run(record, "r").steps
    assert (step.state, step.message, step.start) == ("running", "", 2)
    assert [attempt.state for attempt in step.attempts] == ["failed", "running"]


def test_resumed_run_loses_the_attempts_that_ran(record):
    record.apply_all(JOURNAL[:5])
    record.apply(RunStarted(at=20, run="r", pipeline="p.py:main", graph=GRAPH, resumed=True))
    run = queries.run(record, "r")
    assert (run.state, run.start) == ("running", 1)
    ingest, train = run.steps
    assert ingest.state == "succeeded"
    assert (train.state, train.start) == ("pending", None)
    assert [(attempt.state, attempt.end) for attempt in train.attempts] == [("lost", 20)]
    record.apply(StepStarted(at=21, run="r", step="train", attempt=2))
    record.apply(StepFinished(at=22, run="r", step="train", attempt=2, state="succeeded"))
    record.apply(RunFinished(at=23, run="r", state="succeeded"))
    train = queries.run(record, "r").steps[1]
    assert [attempt.state for attempt in train.attempts] == ["lost", "succeeded"]


def test_finished_run_that_goes_on_is_running_again(record):
    record.apply_all(JOURNAL)
    record.apply(RunFinished(at=12, run="r", state="failed", message="late failure"))
    record.apply(RunStarted(at=20, run="r", pipeline="p.py:main", resumed=True))
    run = queries.run(record, "r")
    assert (run.state, run.end, run.message) == ("running", None, "")


def test_numbers_that_are_not_finite_are_kept(record):
    record.apply_all(JOURNAL[:7])
    assert [point.value for point in queries.metrics(record, "r")] == [math.inf, pytest.approx(math.nan, nan_ok=True)]
    record.apply(
        StepFinished(at=9, run="r", step="train", attempt=1, state="succeeded", metrics={"a": math.nan, "b": -math.inf})
    )
    metrics = queries.run(record, "r").steps[1].metrics
    assert math.isnan(metrics["a"])
    assert metrics["b"] == -math.inf


def test_large_numbers_are_kept(record):
    record.apply(RunStarted(at=1, run="r", pipeline="p", seed=2**64 - 1))
    record.apply(ResourcesSampled(at=1, run="r", step="s", member="m", cpu_seconds=1, memory=2**62))
    assert queries.run(record, "r").seed == 2**64 - 1
    assert queries.resources(record, "r")[0].memory == 2**62


def test_applying_again_changes_nothing_whatever_the_order(record, tables):
    record.apply_all(JOURNAL)
    before = tables(record)
    record.apply_all(JOURNAL)
    for event in reversed(JOURNAL):
        record.apply(event)
    assert tables(record) == before


def test_an_event_and_its_line_in_the_journal_are_the_same(record, tables):
    finite = [event for event in JOURNAL if not (isinstance(event, MetricReported) and not math.isfinite(event.value))]
    record.apply_all(finite)
    before = tables(record)
    decoder = msgspec.json.Decoder(AnyRunEvent)
    record.apply_all(decoder.decode(msgspec.json.encode(event)) for event in finite)
    assert tables(record) == before


def test_failed_batch_changes_nothing(record, tables):
    before = tables(record)
    bad = RunStarted(at=2, run="r2", pipeline="p", graph=[{"name": "no step"}])
    with pytest.raises(KeyError):
        record.apply_all([*JOURNAL, bad])
    assert tables(record) == before
    record.apply_all(JOURNAL)
    assert queries.run(record, "r").state == "succeeded"


def test_deleted_run_leaves_no_trace(record, tables):
    empty = tables(record)
    record.apply_all(JOURNAL)
    assert all(tables(record).values())
    record.delete_run("r")
    assert tables(record) == empty
    with pytest.raises(NotFoundError):
        record.delete_run("r")
    record.apply_all(JOURNAL)
    assert queries.run(record, "r").state == "succeeded"


def test_deleting_spares_what_other_runs_use(record, tables):
    record.apply_all(JOURNAL)
    before = tables(record)
    record.apply(RunStarted(at=30, run="other", pipeline="p"))
    record.apply(
        StepFinished(
            at=31, run="other", step="s", attempt=1, state="succeeded", inputs=(artifact("data"), artifact("own"))
        )
    )
    record.delete_run("other")
    assert tables(record) == before


def test_run_deleted_while_it_goes_on_does_not_stop_it(record):
    record.apply_all(JOURNAL[:4])
    record.delete_run("r")
    record.apply_all(JOURNAL[4:])
    assert queries.run(record, "r").state == "succeeded"


def test_republished_version_belongs_to_the_latest_run(record):
    for at, run in enumerate(("first", "second")):
        record.apply(ModelPublished(at=at, run=run, step="s", model="m", version=1, digest=run, aliases=("champion",)))
    (version,) = queries.model_versions(record)
    assert (version.run, version.digest, version.aliases) == ("second", "second", ("champion",))
    record.delete_run("first")
    assert queries.model_versions(record) == (version,)


_run = st.sampled_from(["r1", "r2"])
_step = st.sampled_from(["a", "b"])
_at = st.sampled_from([0, 1, 2.5])
_attempt = st.integers(1, 2)
_references = st.lists(st.sampled_from(["x", "y"]).map(artifact), max_size=2).map(tuple)
_plain = st.none() | st.integers(-3, 3) | st.just({"k": [1.5, "v"]})
_metrics = st.dictionaries(st.sampled_from(["loss"]), st.sampled_from([0.5, math.inf]), max_size=1)
_end = st.sampled_from(["succeeded", "failed", "cancelled"])
EVENTS = st.lists(
    st.one_of(
        st.builds(
            RunStarted,
            at=_at,
            run=_run,
            pipeline=st.just("p"),
            graph=st.sampled_from([[], GRAPH, [{"step": "a"}]]),
            resumed=st.booleans(),
        ),
        st.builds(StepStarted, at=_at, run=_run, step=_step, attempt=_attempt, fingerprint=st.none() | st.just("f")),
        st.builds(
            StepFinished,
            at=_at,
            run=_run,
            step=_step,
            attempt=st.integers(0, 2),
            state=_end,
            result=_plain,
            inputs=_references,
            outputs=_references,
            metrics=_metrics,
        ),
        st.builds(StepUpdated, at=_at, run=_run, step=_step, attempt=_attempt, result=_plain),
        st.builds(
            MetricReported,
            at=_at,
            run=_run,
            step=_step,
            member=st.just("m"),
            name=st.just("loss"),
            value=st.sampled_from([1, 2.5, math.nan]),
            position=st.none() | st.integers(0, 2),
        ),
        st.builds(
            ResourcesSampled,
            at=_at,
            run=_run,
            step=_step,
            member=st.just("m"),
            cpu_seconds=_at,
            memory=st.integers(0, 2),
        ),
        st.builds(
            ModelPublished,
            at=_at,
            run=_run,
            step=_step,
            model=st.just("m"),
            version=st.integers(1, 2),
            digest=st.sampled_from(["x", "y"]),
            aliases=st.sampled_from([(), ("champion",)]),
        ),
        st.builds(RunFinished, at=_at, run=_run, state=_end),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, data=st.data())
def test_record_depends_on_the_journal_alone(new_record, tables, events, data):
    """Not on how it is cut into batches, nor on what is applied again in between."""
    at_once = new_record()
    at_once.apply_all(events)
    expected = tables(at_once)

    repeated = new_record()
    for number, event in enumerate(events):
        repeated.apply(event)
        again = data.draw(st.lists(st.sampled_from(events[: number + 1]), max_size=2))
        repeated.apply_all(again)
    assert tables(repeated) == expected
    repeated.apply_all(events)
    assert tables(repeated) == expected
