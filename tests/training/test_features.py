"""What people expect of `fit`; mostly one worker in this process, and several where that is the point."""

import struct

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import ConfigurationError, DataError, ModelError
from ganglion.testing.faults import Fault
from ganglion.training import Optimizer, evaluate, predict
from ganglion.training.callbacks import Deadline, Training
from ganglion.training.slices import random_key
from ganglion.training.worker import main


def run(plan, store=None):
    return main(plan=msgspec.to_builtins(plan), store=str(store) if store else None)


@pytest.fixture
def plane(small_plan, sample):
    """A plan of regression on points of a plane, without shuffling within a batch mattering."""

    def make(**fields):
        defaults = {
            "model": sample("linear"),
            "train": sample("line", count=40, global_batch=16),
            "held_out": sample("line", count=30, seed=3),
            "input_column": "features",
            "target_column": "target",
            "loss": "mean_squared_error",
            "optimizer": Optimizer(name="sgd"),
            "learning_rate": 0.05,
        }
        return small_plan(**{**defaults, **fields})

    return make


def plain_loop(plan, epochs, clip=None):
    """The loop that one would write without any of this; the weights it ends with."""
    torch.manual_seed(random_key(plan.seed, "weights"))
    model = plan.model.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.learning_rate)
    for epoch in range(epochs):
        for batch in plan.train.build().batches(epoch, first=0, last=1, of=1):
            optimizer.zero_grad()
            outputs = model(torch.from_numpy(batch["features"])).squeeze(1)
            torch.nn.functional.mse_loss(outputs, torch.from_numpy(batch["target"])).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def weights_of(plan, sample, tmp_path):
    path = tmp_path / "weights.npz"
    run(replace(plan, callbacks=(sample("SaveWeights", path=str(path)),)))
    with np.load(path) as file:
        return dict(file)


def assert_near(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_the_number_of_steps_may_be_given_instead_of_epochs(plane):
    """Batches of 16, 16 and 8 records: the fourth step is the first of the second epoch."""
    result = run(plane(max_steps=4))
    assert [line["epoch"] for line in result["history"]] == [1, 2]
    assert result["stopped"] == ""
    assert run(plane(max_steps=6))["digest"] == run(plane(epochs=2))["digest"] != result["digest"]


def test_both_are_one_too_many(plane):
    with pytest.raises(ConfigurationError, match="epochs is 2 and max_steps is 4; give one"):
        plane(epochs=2, max_steps=4)


def test_gradients_are_clipped_as_a_plain_loop_does(plane, sample, tmp_path):
    plan = plane(epochs=2, clip_norm=0.5)
    clipped = weights_of(plan, sample, tmp_path)
    assert_near(clipped, plain_loop(plan, 2, clip=0.5))
    assert abs(clipped["weight"] - plain_loop(plan, 2)["weight"]).max() > 0.01


def test_micro_batches_add_up_to_the_same_gradient(plane, sample, tmp_path):
    plan = plane(epochs=2, micro_batches=3)
    assert_near(weights_of(plan, sample, tmp_path), plain_loop(plan, 2))


def test_clipped_micro_batches_do_not_depend_on_the_number_of_workers(train, small_plan):
    """Batch normalisation and dropout included."""
    plan = small_plan(logical_workers=3, clip_norm=0.1, micro_batches=2)
    digests = {train(plan, workers=workers).value["digest"] for workers in (1, 2, 3)}
    assert len(digests) == 1
    assert train(replace(plan, micro_batches=1), workers=1).value["digest"] not in digests
    assert train(replace(plan, clip_norm=None), workers=1).value["digest"] not in digests


def test_time_may_be_limited(small_plan):
    result = run(small_plan(epochs=1000, max_time=0.3))
    assert result["stopped"] == "max_time of 0.3 s is over"
    assert 1 <= len(result["history"]) < 1000


def test_the_time_of_an_earlier_process_counts():
    class Watch:
        def __init__(self, seconds):
            self.seconds = seconds

        def monotonic(self):
            return self.seconds

    training = Training(torch.nn.Linear(1, 1), steps=10, steps_per_epoch=10)
    first, watch = Deadline(5.0, Watch(100.0)), Watch(7.0)
    first.on_train_start(training)
    first._clock.seconds = 104.0
    second = Deadline(5.0, watch)
    second.set_state(first.get_state())
    second.on_step_end(training)
    assert training.stopped == ""
    watch.seconds = 8.1
    second.on_step_end(training)
    assert "max_time" in training.stopped


@pytest.mark.parametrize(("rule", "rate"), [("linear", 0.04), ("sqrt", 0.02), ("none", 0.01)])
def test_a_batch_per_worker_comes_with_its_rule(small_plan, rule, rate):
    plan = small_plan(batch_per_worker=8, learning_rate_rule=rule).for_workers(4)
    assert plan.learning_rate == pytest.approx(rate)
    assert plan.global_batch == 32
    assert plan.train.build().global_batch == 32
    with pytest.raises(ConfigurationError, match="global_batch is 8 and batch_per_worker is 8; give one"):
        small_plan(global_batch=8, batch_per_worker=8)


def test_a_batch_per_worker_grows_with_the_workers_at_the_start(train, small_plan):
    plan = small_plan(batch_per_worker=16)
    fixed = small_plan(logical_workers=2, learning_rate=0.02)  # batches of 32
    assert train(plan, workers=2).value["digest"] == train(fixed, workers=1).value["digest"]


def test_a_training_begins_with_a_published_version_of_the_same_model(small_plan, sample, tmp_path):
    before = run(small_plan(epochs=4), tmp_path / "store")
    folder = tmp_path / "version"
    FolderStore(tmp_path / "store").copy_tree(before["artifact"]["digest"], folder)
    cold = run(small_plan())
    warm = run(small_plan(init_from=str(folder), learning_rate=1e-5))
    assert warm["history"][0]["train_loss"] < before["history"][-1]["train_loss"] < cold["history"][0]["train_loss"]
    other = small_plan(init_from=str(folder), model=sample("SmallModel", classes=11))
    with pytest.raises(ModelError, match=r"output.weight is float32 \[11, 256\] here and float32 \[10, 256\] there"):
        run(other)
    with pytest.raises(ModelError, match=r"convolutions.0.weight is missing there.*and .* more"):
        run(replace(other, model=sample("ReferenceModel")))


def test_a_folder_that_is_neither_package_nor_checkpoint_is_refused(small_plan, tmp_path):
    with pytest.raises(ConfigurationError, match=r"is no model package .* and no checkpoint"):
        run(small_plan(init_from=str(tmp_path)))


def test_several_labels_are_learned_and_served_as_probabilities(small_plan, sample, tmp_path):
    import onnxruntime

    plan = small_plan(
        model=sample("linear", inputs=3, outputs=2),
        train=sample("signs"),
        held_out=sample("signs", seed=5),
        input_column="features",
        target_column="labels",
        loss="binary_cross_entropy",
        metrics=("loss", "accuracy", "exact_match", "f1", "precision", "recall"),
        learning_rate=0.1,
        epochs=30,
    )
    result = run(plan, tmp_path / "store")
    assert result["metrics"]["f1"] > 0.9
    assert result["metrics"]["exact_match"] <= result["metrics"]["accuracy"]
    FolderStore(tmp_path / "store").copy_tree(result["artifact"]["digest"], tmp_path / "package")
    session = onnxruntime.InferenceSession(tmp_path / "package" / "model.onnx")
    (answer,) = session.run(None, {"features": np.array([[9, 9, 9], [-9, -9, -9]], dtype=np.float32)})
    assert answer[0].min() > 0.9
    assert answer[1].max() < 0.1


def test_a_label_that_is_no_probability_is_refused(small_plan, sample):
    plan = small_plan(
        model=sample("linear"),
        train=sample("line"),
        held_out=None,
        input_column="features",
        target_column="target",
        loss="binary_cross_entropy",
    )
    with pytest.raises(DataError, match="binary_cross_entropy needs 0 or 1 for each label"):
        run(plan)


def test_regression_has_its_measures(plane):
    names = ("loss", "r2", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error")
    metrics = run(plane(metrics=names, epochs=40))["metrics"]
    assert metrics["mean_squared_error"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert metrics["root_mean_squared_error"] ** 2 == pytest.approx(metrics["loss"], rel=1e-5)
    assert metrics["r2"] > 0.95


needs_bfloat16 = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported(),
    reason="this processor has no instructions for bfloat16",
)


@needs_bfloat16
def test_mixed_precision_learns_and_does_not_depend_on_the_number_of_workers(train, small_plan):
    plan = small_plan(logical_workers=2, precision="bfloat16", epochs=3)
    one, two = (train(plan, workers=workers).value for workers in (1, 2))
    assert one["digest"] == two["digest"] != train(replace(plan, precision="float32"), workers=1).value["digest"]
    assert one["history"][-1]["train_loss"] < one["history"][0]["train_loss"]


def test_mixed_precision_is_refused_where_it_would_be_emulated(small_plan, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    with pytest.raises(ConfigurationError, match=r"no instructions for it .* use float32"):
        run(small_plan(precision="bfloat16"))


def test_a_model_is_measured_and_asked_in_this_process(sample):
    model = sample("linear", outputs=1).build()
    source = sample("line", count=37, global_batch=10)
    said = np.concatenate(list(predict(model, source, input_column="features")))
    rows = list(source.build().batches(0, first=0, last=1, of=1))
    targets = np.concatenate([batch["target"] for batch in rows])
    measured = evaluate(
        model,
        source,
        metrics=("loss", "mean_absolute_error"),
        loss="mean_squared_error",
        input_column="features",
        target_column="target",
    )
    assert said.shape == (37, 1)
    assert measured["loss"] == pytest.approx(np.square(said[:, 0] - targets).mean(), rel=1e-5)
    assert measured["mean_absolute_error"] == pytest.approx(np.abs(said[:, 0] - targets).mean(), rel=1e-5)
    assert model.training


def test_a_corrupt_batch_is_left_out_and_counted_whoever_computes_it(train, small_plan):
    plan = small_plan(logical_workers=4, max_bad_slices=2)
    corrupt = [Fault(kind="corrupt", step=1, worker=2)]
    results = [train(plan, workers=workers, faults=corrupt).value for workers in (1, 3)]
    assert [result["bad_slices"] for result in results] == [1, 1]
    assert results[0]["digest"] == results[1]["digest"] != train(plan, workers=1).value["digest"]


def test_more_corrupt_batches_than_may_be_end_the_training(train, small_plan):
    plan = small_plan(logical_workers=4, max_bad_slices=1)
    corrupt = [Fault(kind="corrupt", step=step, worker=2) for step in (0, 2)]
    outcome = train(plan, workers=2, faults=corrupt)
    assert not outcome.succeeded
    assert "2 slices cannot be used, 1 may be left out; the last in epoch 1, batch 3 of 3" in outcome.traceback
    assert "logical worker 2: A record has the label 255, but the model has 10 outputs" in outcome.traceback


def test_records_that_the_source_masks_are_not_learned_from(plane, sample, tmp_path):
    """As if they were not there: their places hold garbage."""
    plan = plane(train=sample("line", count=20, global_batch=20, masked=4), held_out=sample("line", count=9, masked=2))
    torch.manual_seed(random_key(plan.seed, "weights"))
    model = plan.model.build()
    batch = next(plan.train.build().batches(0, first=0, last=1, of=1))
    there = batch["mask"]
    outputs = model(torch.from_numpy(batch["features"][there])).squeeze(1)
    loss = torch.nn.functional.mse_loss(outputs, torch.from_numpy(batch["target"][there]))
    result = run(replace(plan, metrics=("loss",)))
    assert result["history"][0]["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert np.isfinite(result["metrics"]["loss"])


def test_tensorboard_gets_the_curves(small_plan, sample, tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from ganglion.training import Factory, TensorBoard

    logs = tmp_path / "logs"
    run(small_plan(epochs=2, callbacks=(Factory.of(TensorBoard, folder=str(logs), every=1),)))
    (file,) = logs.iterdir()
    assert {"step/loss", "step/learning_rate", "epoch/accuracy", "epoch/train_loss"} <= tags_in(file.read_bytes())


def tags_in(data):
    """The tags in an event file: records of a length (8 bytes), its checksum (4), the record and its checksum (4)."""
    from tensorboard.compat.proto.event_pb2 import Event

    tags = set()
    while data:
        (length,) = struct.unpack_from("<Q", data)
        tags |= {value.tag for value in Event.FromString(data[12 : 12 + length]).summary.value}
        data = data[16 + length :]
    return tags


def test_without_its_package_tensorboard_says_what_to_install(small_plan, monkeypatch, tmp_path):
    import sys

    from ganglion.training import Factory, TensorBoard

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match="pip install tensorboard"):
        run(small_plan(callbacks=(Factory.of(TensorBoard, folder=str(tmp_path)),)))
