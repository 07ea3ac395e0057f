"""From a trained model to a package in the store."""

import numpy as np
import onnxruntime
import pytest
import torch
from msgspec.structs import replace
from torch import nn

from ganglion.artifacts.checks import read_checks
from ganglion.artifacts.package import ImageInput, read_package
from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import ModelError
from ganglion.training import Export
from ganglion.training.export import check_parity, publish


@pytest.fixture
def model():
    from training_samples import ReferenceModel

    torch.manual_seed(3)
    model = ReferenceModel(dropout=0.5, batch_norm=True).to(memory_format=torch.channels_last)
    model(
        torch.randint(0, 256, (8, 28, 28), dtype=torch.uint8)
    )  # so that the running statistics are not the first ones
    return model


@pytest.fixture
def probe():
    return {"image": np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)}


def blobs(store):
    return [path for path in store.rglob("*") if path.is_file() and path.name != "lock"]


def test_the_package_answers_as_the_model_does_for_any_number_of_records(model, probe, small_plan, tmp_path):
    plan = small_plan(
        classes=tuple("abcdefghij"), export=Export(image=ImageInput(28, 28, "L"), lineage={"dataset": "sha256:0"})
    )
    artifact = publish(model, plan, probe=probe, metrics={"accuracy": 0.5}, store=tmp_path / "store")
    folder = tmp_path / "package"
    FolderStore(tmp_path / "store").copy_tree(artifact, folder)
    package = read_package(folder)
    assert package.runtime == "onnx"
    assert package.classes == tuple("abcdefghij")
    assert package.metrics == {"accuracy": 0.5}
    assert package.lineage == {"dataset": "sha256:0"}
    assert package.image == ImageInput(28, 28, "L")
    (given,), (answered,) = package.signature.inputs, package.signature.outputs
    assert (given.name, given.dtype, given.shape) == ("image", "uint8", (-1, 28, 28))
    assert (answered.name, answered.dtype, answered.shape) == ("probabilities", "float32", (-1, 10))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7, 300):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (answers,) = session.run(["probabilities"], {"image": images})
        with torch.no_grad():
            expected = torch.softmax(model.eval()(torch.from_numpy(images)), dim=1).numpy()
        np.testing.assert_allclose(answers, expected, atol=1e-4)
        np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    checks = read_checks(folder, package.signature)
    checks.compare({"probabilities": session.run(["probabilities"], checks.inputs)[0]})
    with np.load(folder / "weights.npz") as weights:
        assert weights.keys() == model.state_dict().keys()
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})


def test_equal_models_are_equal_bytes_that_tell_no_paths(model, probe, small_plan, tmp_path):
    first, second = (
        publish(model, small_plan(), probe=probe, metrics={}, store=tmp_path / name) for name in ("one", "two")
    )
    assert first.digest == second.digest
    assert not any(b".py" in path.read_bytes() for path in blobs(tmp_path / "one"))


def test_a_model_that_wavers_is_not_published(probe, small_plan, tmp_path):
    from training_samples import Wavering

    with pytest.raises(ModelError, match=r"differs from the trained one by .* on 20 held-out records"):
        publish(Wavering(), small_plan(), probe=probe, metrics={}, store=tmp_path / "store")
    assert not blobs(tmp_path / "store")


def test_a_regression_model_answers_without_softmax(small_plan, tmp_path):
    plan = replace(small_plan(), loss="mean_squared_error", input_column="features")
    probe = {"features": np.ones((1, 3), dtype=np.float32)}
    artifact = publish(nn.Linear(3, 1), plan, probe=probe, metrics={}, store=tmp_path / "store")
    FolderStore(tmp_path / "store").copy_tree(artifact, tmp_path / "package")
    (answered,) = read_package(tmp_path / "package").signature.outputs
    assert (answered.name, answered.shape) == ("output", (-1, 1))


def test_a_difference_beyond_the_tolerance_is_refused(model, probe, small_plan, tmp_path):
    artifact = publish(model, small_plan(), probe=probe, metrics={}, store=tmp_path / "store")
    FolderStore(tmp_path / "store").copy_tree(artifact, tmp_path / "package")
    with torch.no_grad():
        expected = torch.softmax(model.eval()(torch.from_numpy(probe["image"])), dim=1).numpy()
    path = tmp_path / "package" / "model.onnx"
    check_parity(path, probe["image"], expected, tolerance=1e-4)
    expected[3, 3] += 0.001
    with pytest.raises(ModelError, match=r"by 0\.001 on 20"):
        check_parity(path, probe["image"], expected, tolerance=1e-4)


def test_a_model_that_cannot_be_exported_says_why(probe, small_plan, tmp_path):
    from training_samples import Branching

    with pytest.raises(ModelError, match="cannot be exported to ONNX") as caught:
        publish(Branching(), small_plan(), probe=probe, metrics={}, store=tmp_path / "store")
    assert len(str(caught.value)) < 2000
    assert not blobs(tmp_path / "store")
