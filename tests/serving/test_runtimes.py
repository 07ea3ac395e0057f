"""The libraries that execute models: one contract for all of them, and what is particular to each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import text_contract
import text_samples
from onnx import TensorProto, helper
from runtime_contract import CHECKS, SIGNATURE, WEIGHTS, numbers

from ganglion.artifacts.package import write_package
from ganglion.core.errors import ModelError
from ganglion.serving.model import LoadedModel
from ganglion.serving.runtime import EXTRAS
from ganglion.serving.servable import RUNTIMES

sys.path.append(str(Path(__file__).parents[1] / "cli"))

from tensorflow_environment import NotInstallable, tensorflow_python

PREDICTOR = """
import numpy as np
from .numbers import OFFSET

class Predictor:
    def load(self, folder):
        self.weights = np.load(folder / "weights.npy")

    def predict(self, batch):
        if len(batch["x"]) and batch["x"][0, 0] == 666:
            raise SystemExit(3)
        given = batch["x"]
        given += 0  # it may do with its input what it likes
        return {"y": given @ self.weights + OFFSET}
"""


def write_onnx(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["product"]), helper.make_node("Add", ["product", "one"], ["y"])],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            onnx.numpy_helper.from_array(WEIGHTS, "weights"),
            onnx.numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder.parent / "model.onnx"))
    write_package(folder, runtime="onnx", signature=SIGNATURE, files={"model.onnx": folder.parent / "model.onnx"})


def write_exported(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    module.load_state_dict({"weight": torch.from_numpy(WEIGHTS.T.copy()), "bias": torch.ones(2)})
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module.eval(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder.parent / "model.pt2")
    write_package(folder, runtime="torch", signature=SIGNATURE, files={"model.pt2": folder.parent / "model.pt2"})


def write_eager(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    weights, code = folder.parent / "weights.pt", folder.parent / "network.py"
    torch.save({"weight": torch.from_numpy(WEIGHTS.T.copy()), "bias": torch.ones(2)}, weights)
    code.write_text("import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    files = {"weights.pt": weights, "network.py": code}
    write_package(folder, runtime="torch", signature=SIGNATURE, files=files, entry="network:build")


def write_python(folder: Path, code: str = PREDICTOR) -> None:
    source = folder.parent / f"{folder.name}-source"
    source.mkdir()
    np.save(source / "weights.npy", WEIGHTS)
    (source / "predictor.py").write_text(textwrap.dedent(code))
    (source / "numbers.py").write_text("OFFSET = 1\n")
    files = {path.name: path for path in source.iterdir()}
    write_package(folder, runtime="python", signature=SIGNATURE, files=files, entry="predictor:Predictor")


WRITERS: dict[str, Callable[[Path], None]] = {
    "onnx": write_onnx,
    "torch exported": write_exported,
    "torch eager": write_eager,
    "python": write_python,
}


@pytest.fixture(scope="module", params=WRITERS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime") / "package"
    WRITERS[request.param](folder)
    return folder


TEXT_WRITERS = {"onnx": text_samples.write_onnx, "python": text_samples.write_python}


@pytest.fixture(scope="module", params=TEXT_WRITERS)
def text_package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "package"
    TEXT_WRITERS[request.param](folder)
    return folder


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a program in the environment with TensorFlow found."""
    try:
        python = tensorflow_python()
    except NotInstallable as error:
        pytest.skip(f"TensorFlow cannot be installed: {error}")
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1] / "src"), sysconfig.get_paths()["purelib"]]
    script, folder = here / "tensorflow_model.py", tmp_path_factory.mktemp("tensorflow")
    done = subprocess.run(
        [python, script, folder, ":".join(paths)],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_the_contract(package: Path, check: str) -> None:
    CHECKS[check](package)


@pytest.mark.parametrize("check", text_contract.CHECKS)
def test_the_contract_of_text(text_package: Path, check: str) -> None:
    text_contract.CHECKS[check](text_package)


def test_a_text_that_a_model_fails_on_fails_alone(tmp_path: Path) -> None:
    text_samples.write_python(tmp_path / "package")
    model = LoadedModel(tmp_path / "package")
    given = {"text": text_contract.texts("a", "refuse", "b"), "times": np.array([1, 2, 3])}
    outputs, failures = model.predict(given)
    assert outputs["loud"].tolist() == ["a!", "", "b!"]
    assert [(failure.row, failure.message) for failure in failures] == [(1, "The model failed: ValueError: I refuse")]


@pytest.mark.parametrize(
    ("text", "message"), [("half", "'loud': a half of a surrogate pair"), ("number", "'loud': int was given; text is")]
)
def test_what_a_model_gives_for_text_and_is_none_is_its_failure(tmp_path: Path, text: str, message: str) -> None:
    text_samples.write_python(tmp_path / "package")
    model = LoadedModel(tmp_path / "package")
    outputs, (failure,) = model.predict({"text": text_contract.texts(text), "times": np.array([1])})
    assert (outputs, failure.invalid) == ({}, False)
    assert message in failure.message


def test_a_runtime_without_text_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"x")
    files = {"model.pt2": tmp_path / "model.pt2"}
    write_package(tmp_path / "package", runtime="torch", signature=text_contract.SIGNATURE, files=files)
    with pytest.raises(ModelError, match="'text' has the type string, which the runtime 'torch' does not have"):
        LoadedModel(tmp_path / "package")


def test_the_contract_by_tensorflow(tensorflow: dict[str, object]) -> None:
    assert tensorflow["problems"] == dict.fromkeys(CHECKS, "")
    assert tensorflow["same"] is True, "as the function that was saved"
    assert tensorflow["text problems"] == dict.fromkeys(text_contract.CHECKS, "")


def test_a_saved_model_without_the_serving_signature_is_refused(tensorflow: dict[str, object]) -> None:
    assert "no signature 'serving_default'; it has other" in str(tensorflow["unsigned"])
    assert "['pixels', 'x'] are only on one side" in str(tensorflow["odd"])


def test_every_runtime_that_needs_a_library_says_how_to_get_it() -> None:
    assert set(RUNTIMES) - set(EXTRAS) == {"python"}


def test_a_runtime_without_its_library_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    files = {"saved_model/saved_model.pb": tmp_path / "saved_model.pb"}
    write_package(tmp_path / "package", runtime="tensorflow", signature=SIGNATURE, files=files)
    with pytest.raises(ModelError, match=r"'tensorflow': pip install 'ganglion\[tensorflow\]'"):
        LoadedModel(tmp_path / "package")


def test_models_of_the_same_modules_do_not_meet(tmp_path: Path) -> None:
    write_python(tmp_path / "one")
    write_python(tmp_path / "two", PREDICTOR.replace("+ OFFSET", "- OFFSET"))
    one, two = LoadedModel(tmp_path / "one"), LoadedModel(tmp_path / "two")
    given = numbers(2)
    np.testing.assert_allclose(one.predict({"x": given})[0]["y"], given @ WEIGHTS + 1, rtol=1e-6)
    np.testing.assert_allclose(two.predict({"x": given})[0]["y"], given @ WEIGHTS - 1, rtol=1e-6)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "numbers.py",
        "package.json",
        "predictor.py",
        "weights.npy",
    ]


def test_a_predictor_that_wants_to_end_the_process_fails_its_instance_alone(tmp_path: Path) -> None:
    write_python(tmp_path / "package")
    model = LoadedModel(tmp_path / "package")
    given = numbers(3)
    given[1, 0] = 666
    outputs, failures = model.predict({"x": given[[1, 0, 2]]})
    assert [(failure.row, failure.invalid) for failure in failures] == [(0, False)]
    assert "sys.exit(3)" in failures[0].message
    np.testing.assert_allclose(outputs["y"][1:], given[[0, 2]] @ WEIGHTS + 1, rtol=1e-6)


def predictor(body: str, load: str = "pass") -> str:
    return f"""
        import numpy as np
        from ganglion.core.errors import DataError

        class Predictor:
            def load(self, folder):
                {load}

            def predict(self, batch):
                {body}
        """


@pytest.mark.parametrize(
    ("body", "invalid", "message"),
    [
        ("return 1 / 0", False, "ZeroDivisionError: division by zero"),
        ("raise DataError('the text is empty')", True, "the text is empty"),
        ("return [1, 2]", False, "gave list; a dictionary of arrays"),
        ("return {'z': batch['x']}", False, "no output 'y'"),
        ("return {'y': [[1.0], [2.0, 3.0]]}", False, "no array as output 'y'"),
        ("return {'y': np.zeros((1, 2), np.int32)}", False, "signature says float32"),
        ("return {'y': np.zeros((7, 2), np.float32)}", False, "signature says float32"),
    ],
)
def test_what_a_predictor_does_wrong_is_its_answer(tmp_path: Path, body: str, invalid: bool, message: str) -> None:
    write_python(tmp_path / "package", predictor(body))
    outputs, failures = LoadedModel(tmp_path / "package").predict({"x": numbers(1)})
    assert outputs == {}
    assert [failure.invalid for failure in failures] == [invalid]
    assert message in failures[0].message


def test_python_numbers_are_as_precise_as_the_signature_says(tmp_path: Path) -> None:
    write_python(tmp_path / "package", predictor("return {'y': [[0.1, 0.2] for _ in batch['x']]}"))
    outputs, failures = LoadedModel(tmp_path / "package").predict({"x": numbers(3)})
    assert failures == []
    assert outputs["y"].dtype == np.float32


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (predictor("return {}", load="raise OSError('no licence')"), "could not load: OSError: no licence"),
        ("import no_such_module_anywhere", "cannot be loaded from the package.*no_such_module_anywhere"),
        ("class Other: ...", "has no"),
        ("class Predictor: ...", r"lacks load\(\) and predict\(\)"),
        ("def Predictor(): ...", "no predictor"),
    ],
)
def test_a_predictor_that_cannot_be_loaded_is_refused(tmp_path: Path, code: str, message: str) -> None:
    write_python(tmp_path / "package", code)
    with pytest.raises(ModelError, match=message):
        LoadedModel(tmp_path / "package")


def test_weights_of_another_module_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"other": torch.ones(2)}, tmp_path / "weights.pt")
    (tmp_path / "network.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    files = {name: tmp_path / name for name in ("weights.pt", "network.py")}
    write_package(tmp_path / "package", runtime="torch", signature=SIGNATURE, files=files, entry="network:build")
    with pytest.raises(ModelError, match="'network:build' with the weights"):
        LoadedModel(tmp_path / "package")
