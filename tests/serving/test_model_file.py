"""A model of another tool becomes a package: what it takes is read from it, and what cannot be served is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving_samples import write_classifier

from ganglion.artifacts.package import DTYPES, ImageInput, TensorSpec, read_package
from ganglion.core.errors import ModelError, UserError
from ganglion.serving.model import LoadedModel
from ganglion.serving.model_file import package_model, parse_image, parse_tensor, read_model

NUMBERS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
X, Y = TensorSpec("x", "float32", (-1, 3)), TensorSpec("y", "float32", (-1,))
PREDICTOR = """
import json


class Weighted:
    def load(self, folder):
        self.weights = json.loads((folder / "weights.json").read_text())
        print("loaded")

    def predict(self, batch):
        return {"y": batch["x"] @ self.weights}


class Failing(Weighted):
    def predict(self, batch):
        raise RuntimeError("no numbers today")
"""


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Named(Linear):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.layer(x), "sum": y.sum(1)}


def export(module: torch.nn.Module, path: Path, *sizes: int, free: bool = True) -> Path:
    """Save what `torch.export` makes of a module that takes tensors of so many numbers."""
    batch = torch.export.Dim("batch")
    given = tuple(torch.zeros(2, size) for size in sizes)
    shapes = tuple({0: batch} for _ in sizes) if free else None
    torch.export.save(torch.export.export(module, given, dynamic_shapes=shapes), path)
    return path


def answers(package: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    outputs, failures = LoadedModel(package).predict(inputs)
    assert failures == []
    return outputs


def write_predictor(folder: Path) -> str:
    (folder / "predictor.py").write_text(PREDICTOR)
    (folder / "weights.json").write_text("[1, 10, 100]")
    return str(folder / "predictor.py")


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_exported_program_says_itself_what_it_takes(tmp_path: Path) -> None:
    module = Linear()
    package_model(read_model(str(export(module, tmp_path / "any.pt2", 3))), tmp_path / "package")
    signature = read_package(tmp_path / "package").signature
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in signature.inputs] == [("x", "float32", (-1, 3))]
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in signature.outputs] == [
        ("output", "float32", (-1, 2))
    ]
    wanted = module(torch.from_numpy(NUMBERS)).detach().numpy()
    np.testing.assert_allclose(answers(tmp_path / "package", x=NUMBERS)["output"], wanted, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_outputs_of_a_program_have_the_names_of_its_dictionary(tmp_path: Path) -> None:
    package_model(read_model(str(export(Named(), tmp_path / "two.pt2", 3, 4))), tmp_path / "package")
    given = answers(tmp_path / "package", x=NUMBERS, y=np.ones((2, 4), np.float32))
    assert given.keys() == {"scores", "sum"}
    assert given["sum"].tolist() == [4.0, 4.0]


@pytest.mark.filterwarnings("ignore")
def test_a_program_of_one_size_of_batch_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = read_model(str(export(Linear(), tmp_path / "fixed.pt2", 3, free=False)))
    with pytest.raises(ModelError, match=r"first size has to be -1.*dynamic_shapes"):
        package_model(model, tmp_path / "package")


def test_an_onnx_model_is_packaged_with_the_file_of_its_weights(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    weights = onnx.numpy_helper.from_array(np.arange(3, dtype=np.float32).reshape(3, 1), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "mine.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="mine.weights", size_threshold=0)
    assert (tmp_path / "mine.weights").is_file()
    package_model(read_model(str(path)), tmp_path / "package", classes=["only"])
    assert set(read_package(tmp_path / "package").files) == {"model.onnx", "mine.weights"}
    assert answers(tmp_path / "package", x=NUMBERS)["y"].tolist() == [[8.0], [17.0]]
    with pytest.raises(ModelError, match="2 classes are given; the output's last size is 1"):
        package_model(read_model(str(path)), tmp_path / "other", classes=["one", "two"])


def test_a_class_is_packaged_with_what_lies_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_predictor(tmp_path)
    model = read_model(f"{source}:Weighted", inputs=[X], outputs=[Y], others=[tmp_path / "weights.json"])
    package_model(model, tmp_path / "package")
    assert capsys.readouterr() == ("", "loaded\n"), "a document on standard output stays one"
    assert answers(tmp_path / "package", x=NUMBERS)["y"].tolist() == [321.0, 654.0]


@pytest.mark.filterwarnings("ignore")
def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """Whoever is left out would be the model, or what it reads."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weighted.py").write_text(PREDICTOR)
    source = f"{tmp_path}/a/weighted.py:Weighted"
    with pytest.raises(UserError, match=r"a/weighted\.py and .*b/weighted\.py would be 'weighted\.py'"):
        read_model(source, inputs=[X], outputs=[Y], others=[tmp_path / "b" / "weighted.py"])


@pytest.mark.parametrize("channels_first", [True, False])
def test_pixels_get_the_order_and_the_range_of_the_input(tmp_path: Path, channels_first: bool) -> None:
    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) * 1.0

    sizes = (2, 3, 4, 5) if channels_first else (2, 4, 5, 3)
    program = torch.export.export(Same(), (torch.zeros(sizes),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "same.pt2")
    package_model(read_model(str(tmp_path / "same.pt2")), tmp_path / "package", image=parse_image("5x4:RGB/255"))
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    outputs, failures = LoadedModel(tmp_path / "package").predict_images([file.getvalue()])
    assert failures == []
    wanted = (pixels.transpose(2, 0, 1) if channels_first else pixels).ravel() / 255
    np.testing.assert_allclose(outputs["output"], wanted[np.newaxis], rtol=1e-6)


def test_whole_pixels_are_not_scaled(tmp_path: Path) -> None:
    write_classifier(tmp_path / "model")
    model = read_model(str(tmp_path / "model" / "model.onnx"))
    with pytest.raises(ModelError, match="need an input of float32"):
        package_model(model, tmp_path / "package", image=parse_image("28x28:L/255"))


def test_the_log_says_which_line_of_a_class_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "late.py").write_text(
        "class Late:\n    def load(self, folder): pass\n    def predict(self, batch):\n"
        "        if batch['x'].any():\n            raise ValueError('unlucky')\n"
        "        return {'y': batch['x'][:, 0]}\n"
    )
    package_model(read_model(f"{tmp_path}/late.py:Late", inputs=[X], outputs=[Y]), tmp_path / "package")
    outputs, failures = LoadedModel(tmp_path / "package").predict({"x": NUMBERS[:1]})
    assert (outputs, [failure.message for failure in failures]) == ({}, ["The model failed: ValueError: unlucky"])
    assert f"{tmp_path}/package/late.py:5 in predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "beside", "said"),
    [
        ("Weighted", False, "could not load: FileNotFoundError"),
        ("Failing", True, "cannot answer zeros.*no numbers today"),
        ("Missing", True, "has no 'Missing'"),
    ],
)
def test_a_class_that_cannot_be_served_is_not_packaged_for_it(
    tmp_path: Path, name: str, beside: bool, said: str
) -> None:
    source = write_predictor(tmp_path)
    others = [tmp_path / "weights.json"] if beside else []
    with pytest.raises(ModelError, match=said):
        package_model(read_model(f"{source}:{name}", inputs=[X], outputs=[Y], others=others), tmp_path / "package")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.pt", "torch.export.save"),
        ("net.keras", "model.export"),
        ("forest.joblib", "--with"),
        ("predictor.py", "behind a colon"),
        ("notes.txt", ".onnx or .pt2"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UserError, match=said):
        read_model(str(tmp_path / name))
    with pytest.raises(UserError, match="There is no"):
        read_model(str(tmp_path / f"other-{name}"))


def test_damaged_files_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, said in (("net.onnx", "ONNX Runtime cannot load"), ("net.pt2", "PyTorch cannot load")):
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(ModelError, match=said):
            read_model(str(tmp_path / name))
    assert caplog.records == [], "a traceback of the library says less than the message"


def test_a_class_needs_inputs_and_outputs_and_a_file_has_its_own(tmp_path: Path) -> None:
    source = write_predictor(tmp_path)
    with pytest.raises(UserError, match="--input"):
        read_model(f"{source}:Weighted", outputs=[Y])
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="says itself"):
        read_model(str(tmp_path / "net.onnx"), inputs=[X])


@given(
    st.sampled_from(DTYPES),
    st.lists(st.one_of(st.just(-1), st.integers(1, 4096)), max_size=4),
    st.text("abc/._", min_size=1),
)
def test_tensors_are_read_as_they_are_written(dtype: Any, sizes: list[int], name: str) -> None:
    text = f"{name}={dtype}" + (f":{'x'.join(map(str, sizes))}" if sizes else "")
    assert parse_tensor(text) == TensorSpec(name, dtype, (-1, *sizes))


def test_sizes_and_modes_that_are_none_are_refused() -> None:
    assert parse_image("28x20") == ImageInput(28, 20, "L")
    assert parse_image("224x200:RGB/255") == ImageInput(224, 200, "RGB", 1 / 255)
    for text in ("28", "28x", "28x28:CMYK", "28*28", "28x28:L/0"):
        with pytest.raises(UserError, match="WIDTHxHEIGHT"):
            parse_image(text)
    for text in ("x", "x:3", "=float32", "x=float32:", "x=float32:3x"):
        with pytest.raises(UserError, match="NAME=TYPE:SIZES"):
            parse_tensor(text)
    with pytest.raises(UserError, match="Did you mean 'float32'"):
        parse_tensor("x=flaot32:3")
