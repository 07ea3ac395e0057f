from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from serving_samples import SIGNATURE, encoded, expected, pixels, weights, write_classifier, write_lookup

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec, write_package
from ganglion.core.errors import ModelError
from ganglion.serving.model import LoadedModel


def test_an_onnx_model_gives_what_numpy_gives(classifier: Path) -> None:
    model = LoadedModel(classifier)
    model.warm(32)
    given = pixels(5)
    outputs, failures = model.predict({"pixels": given})
    assert failures == []
    np.testing.assert_allclose(outputs["probabilities"], expected(given, 0), atol=1e-6)


def test_an_exported_torch_program_gives_what_numpy_gives(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.from_numpy(weights(3)))

        def forward(self, given: object) -> object:
            flat = given.flatten(1).to(torch.float32) / 255  # type: ignore[attr-defined]
            return torch.softmax(flat @ self.weights, dim=1)

    batch = torch.export.Dim("batch", min=1, max=1024)
    sample = torch.zeros((2, 28, 28), dtype=torch.uint8)
    program = torch.export.export(Classifier().eval(), (sample,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    folder = tmp_path / "package"
    write_package(
        folder,
        runtime="torch",
        signature=SIGNATURE,
        files={"model.pt2": tmp_path / "model.pt2"},
        image=ImageInput(28, 28, "L"),
    )
    model = LoadedModel(folder)
    model.warm(8)
    given = pixels(3)
    outputs, failures = model.predict_images([encoded(one) for one in given])
    assert failures == []
    np.testing.assert_allclose(outputs["probabilities"], expected(given, 3), atol=1e-6)
    model.close()


def test_a_bad_image_fails_alone(classifier: Path) -> None:
    given = pixels(3)
    outputs, failures = LoadedModel(classifier).predict_images(
        [encoded(given[0]), b"nonsense", encoded(given[1], "PNG"), b"", encoded(given[2])]
    )
    assert [(failure.row, failure.invalid) for failure in failures] == [(1, True), (3, True)]
    np.testing.assert_allclose(outputs["probabilities"][[0, 2, 4]], expected(given, 0), atol=1e-6)


def test_an_instance_that_the_model_fails_on_fails_alone(tmp_path: Path) -> None:
    write_lookup(tmp_path / "lookup")
    model = LoadedModel(tmp_path / "lookup")
    outputs, failures = model.predict({"index": np.array([3, 9, 0])})
    assert [(failure.row, failure.invalid) for failure in failures] == [(1, False)]
    assert outputs["value"][[0, 2]].tolist() == [3.5, 0.5]


def test_more_instances_than_it_was_warmed_with_are_computed_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lookup(tmp_path / "lookup")
    model = LoadedModel(tmp_path / "lookup")
    model.warm(4)
    sizes: list[int] = []
    predict = model._runtime.predict
    monkeypatch.setattr(model._runtime, "predict", lambda inputs: sizes.append(len(inputs["index"])) or predict(inputs))
    index = np.arange(11) % 4
    outputs, failures = model.predict({"index": index})
    assert outputs["value"].tolist() == (index + 0.5).tolist()
    assert (failures, sizes) == ([], [4, 4, 3])
    index[9] = 99
    outputs, failures = model.predict({"index": index})
    assert [failure.row for failure in failures] == [9]
    assert outputs["value"].tolist() == [*(index[:9] + 0.5), 0.0, index[10] + 0.5]
    outputs, failures = model.predict({"index": np.full(9, 99)})
    assert (outputs, [failure.row for failure in failures]) == ({}, list(range(9)))


def test_a_half_written_or_damaged_package_is_not_loaded(classifier: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(classifier / "model.onnx", half)
    with pytest.raises(ModelError, match="half written"):
        LoadedModel(half)
    content = bytearray((classifier / "model.onnx").read_bytes())
    content[-10] ^= 255
    (classifier / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        LoadedModel(classifier)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    write_package(tmp_path / "bad", runtime="onnx", signature=SIGNATURE, files={"model.onnx": tmp_path / "text"})
    with pytest.raises(ModelError, match="cannot load"):
        LoadedModel(tmp_path / "bad")


@pytest.mark.parametrize(
    ("name", "shape", "image", "message"),
    [
        ("pixels", (1, 28, 28), None, "first size has to be -1"),
        ("pixels", (-1, 28, 28), ImageInput(32, 28, "L"), r"Images of \[28, 32\]"),
        ("image", (-1, 28, 28), None, "signature's inputs are"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused(
    classifier: Path, tmp_path: Path, name: str, shape: tuple[int, ...], image: ImageInput | None, message: str
) -> None:
    signature = Signature(inputs=(TensorSpec(name, "uint8", shape),), outputs=SIGNATURE.outputs)
    files = {"model.onnx": classifier / "model.onnx"}
    write_package(tmp_path / "odd", runtime="onnx", signature=signature, files=files, image=image)
    with pytest.raises(ModelError, match=message):
        LoadedModel(tmp_path / "odd")


def test_outputs_other_than_the_signature_says_are_found_when_warming(classifier: Path, tmp_path: Path) -> None:
    signature = Signature(inputs=SIGNATURE.inputs, outputs=(TensorSpec("probabilities", "float32", (-1, 11)),))
    files = {"model.onnx": classifier / "model.onnx"}
    write_package(tmp_path / "odd", runtime="onnx", signature=signature, files=files)
    with pytest.raises(ModelError, match="signature says"):
        LoadedModel(tmp_path / "odd").warm(4)


def test_models_without_images_refuse_them(tmp_path: Path) -> None:
    write_classifier(tmp_path / "plain", image=False)
    outputs, failures = LoadedModel(tmp_path / "plain").predict_images([b"x", b"y"])
    assert outputs == {}
    assert [failure.row for failure in failures] == [0, 1]
