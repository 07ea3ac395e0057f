import pytest

from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import ArtifactReference, ModelPublished, StepFinished
from ganglion.metadata.lineage import artifact_references, downstream, upstream


def finish(record, run, step, inputs, outputs, state="succeeded"):
    def references(names):
        return tuple(ArtifactReference(digest=name, kind="k") for name in names.split())

    record.apply(
        StepFinished(
            at=1, run=run, step=step, attempt=1, state=state, inputs=references(inputs), outputs=references(outputs)
        )
    )


@pytest.fixture
def pipeline(record):
    """raw -> ingest -> data -> three trainings -> models -> select -> champion package; the second run re-uses data."""
    finish(record, "r1", "ingest", "raw", "data")
    for name in ("plain", "dropout"):
        finish(record, "r1", f"train-{name}", "data", name)
    finish(record, "r1", "select", "plain dropout", "")
    record.apply(ModelPublished(at=2, run="r1", step="select", model="m", version=1, digest="package"))
    finish(record, "r2", "ingest", "raw", "data", "cached")
    finish(record, "r2", "train-big", "data", "big")
    finish(record, "r2", "unrelated", "other", "thing")
    return record


def names(lineage):
    return [f"{step.run}/{step.step}" for step in lineage.steps]


def test_from_a_model_back_to_the_data(pipeline):
    found = upstream(pipeline, "package")
    assert names(found) == ["r1/select", "r1/train-dropout", "r1/train-plain", "r1/ingest", "r2/ingest"]
    assert [artifact.digest for artifact in found.artifacts] == ["dropout", "plain", "data", "raw"]
    assert [(model.model, model.version) for model in found.models] == [("m", 1)]
    assert [step.state for step in found.steps[-2:]] == ["succeeded", "cached"]
    assert [artifact.digest for artifact in found.steps[0].inputs] == ["dropout", "plain"]


def test_from_the_data_forward_to_models(pipeline):
    finish(pipeline, "r3", "deploy", "package", "")
    found = downstream(pipeline, "raw")
    assert names(found)[:2] == ["r1/ingest", "r2/ingest"]
    assert set(names(found)[2:5]) == {"r1/train-plain", "r1/train-dropout", "r2/train-big"}
    assert [artifact.digest for artifact in found.artifacts] == ["data", "dropout", "plain", "big", "package"]
    assert names(found)[-2:] == ["r1/select", "r3/deploy"]
    assert [model.digest for model in found.models] == ["package"]


def test_published_package_keeps_the_size_that_its_step_reports(record):
    record.apply(ModelPublished(at=1, run="r", step="s", model="m", version=1, digest="package"))
    package = ArtifactReference(digest="package", kind="package", size=9)
    record.apply(StepFinished(at=2, run="r", step="s", attempt=1, state="succeeded", outputs=(package,)))
    assert upstream(record, "package").steps[0].outputs == (package,)


def test_source_has_nothing_upstream_and_leaf_nothing_downstream(pipeline):
    assert upstream(pipeline, "raw").steps == ()
    assert downstream(pipeline, "big").steps == ()
    assert downstream(pipeline, "package").models[0].version == 1


def test_step_that_gives_what_it_took_ends_the_walk(record):
    finish(record, "r", "same", "a", "a b")
    finish(record, "r", "back", "b", "a")
    assert set(names(upstream(record, "a"))) == {"r/same", "r/back"}
    assert set(names(downstream(record, "b"))) == {"r/same", "r/back"}


def test_unknown_artifact_is_not_found(pipeline):
    for walk in (upstream, downstream):
        with pytest.raises(NotFoundError, match="sha256:absent"):
            walk(pipeline, "sha256:absent")


def test_references_are_what_runs_and_models_still_need(pipeline):
    assert artifact_references(pipeline) == {"raw", "data", "plain", "dropout", "package", "big", "other", "thing"}
    pipeline.delete_run("r1")
    assert artifact_references(pipeline) == {"raw", "data", "big", "other", "thing"}
