import json
from pathlib import Path

import pytest

from ganglion.artifacts import ImageInput, Signature, TensorSpec, read_package, write_package
from ganglion.core.errors import ModelError

SIGNATURE = Signature(
    inputs=(TensorSpec("pixels", "float32", (-1, 1, 28, 28)),),
    outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def package(tmp_path: Path, weights: Path) -> Path:
    folder = tmp_path / "models" / "fashion" / "1"
    write_package(
        folder,
        runtime="onnx",
        signature=SIGNATURE,
        files={"model.onnx": weights, "data/external": weights},
        image=ImageInput(28, 28, "L"),
        metrics={"accuracy": 0.91, "epochs": 3},
        lineage={"run": "run-1", "dataset": "sha256:" + "0" * 64},
        classes=["shirt", "bag"],
    )
    return folder


def edit(folder: Path, change) -> None:
    path = folder / "package.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_package_reads_as_it_was_written(package, tmp_path, weights):
    manifest = read_package(package)
    assert manifest.runtime == "onnx"
    assert manifest.signature == SIGNATURE
    assert manifest.image == ImageInput(width=28, height=28, mode="L")
    assert manifest.metrics == {"accuracy": 0.91, "epochs": 3.0}
    assert manifest.lineage["run"] == "run-1"
    assert manifest.classes == ("shirt", "bag")
    assert sorted(manifest.files) == ["data/external", "model.onnx"]
    assert (package / "data" / "external").read_bytes() == b"weights"
    again = write_package(
        tmp_path / "again", runtime="torch", signature=SIGNATURE, files={"model.pt": weights}, classes=("a",)
    )
    assert read_package(tmp_path / "again") == again


def test_description_is_text_for_people(package):
    content = json.loads((package / "package.json").read_text())
    assert content["format"] == 1
    assert content["signature"]["inputs"] == [{"name": "pixels", "dtype": "float32", "shape": [-1, 1, 28, 28]}]
    assert (package / "package.json").read_text().count("\n") > 10


def test_folder_without_description_is_half_written(package):
    (package / "package.json").unlink()
    with pytest.raises(ModelError, match="half written"):
        read_package(package)


def test_absent_folder(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_package(tmp_path / "absent")


@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_truncated_files_are_found(package, verify):
    (package / "model.onnx").write_bytes(b"weight")
    with pytest.raises(ModelError, match=r"model\.onnx.*6 bytes.*says 7"):
        read_package(package, verify=verify)
    (package / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"lacks its file 'model\.onnx'"):
        read_package(package, verify=verify)


def test_changed_bytes_are_found_when_verified(package):
    (package / "data" / "external").write_bytes(b"WEIGHTS")
    read_package(package, verify=False)
    with pytest.raises(ModelError, match=r"data/external is damaged"):
        read_package(package)


@pytest.mark.parametrize("part", ["model.onnx", "data", "package.json"])
def test_symbolic_links_are_refused(package, tmp_path, part):
    (package / part).rename(tmp_path / "moved")
    (package / part).symlink_to(tmp_path / "moved")
    with pytest.raises(ModelError, match="symbolic link"):
        read_package(package)


@pytest.mark.parametrize("place", ["beside", "data/beside"])
def test_symbolic_links_that_are_not_described_are_refused_too(package, tmp_path, place):
    (package / place).symlink_to(tmp_path)
    with pytest.raises(ModelError, match=f"symbolic link at '{place}'"):
        read_package(package, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=2), "format 2; this version reads format 1"),
        (lambda content: content.pop("format"), "format None"),
        (lambda content: content.update(surprise=1), "surprise"),
        (lambda content: content["signature"].update(surprise=1), "surprise"),
        (lambda content: content.update(runtime="pickle"), "pickle"),
        (lambda content: content.pop("signature"), "signature"),
        (lambda content: content["files"].update({"../weights": content["files"]["model.onnx"]}), r"\.\./weights"),
        (lambda content: content["files"].update({"/etc/hosts": content["files"]["model.onnx"]}), "absolute"),
        (lambda content: content.update(files={}), "at least one file"),
        (lambda content: content["signature"]["inputs"][0].update(dtype="float31"), "float31"),
        (lambda content: content["signature"]["inputs"][0].update(shape=[-2]), "shape"),
        (lambda content: content["image"].update(width=0), "width"),
        (lambda content: content.update(runtime="python"), "needs an entry"),
        (lambda content: content.update(entry="predictor:Predictor"), "no use for the entry"),
        (lambda content: content.update(runtime="python", entry="../predictor:Predictor"), "form module:name"),
    ],
)
def test_invalid_description_is_refused_with_its_folder(package, change, message):
    edit(package, change)
    with pytest.raises(ModelError, match=message) as caught:
        read_package(package)
    assert str(package) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_description_that_does_not_parse(package, text):
    (package / "package.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match="package"):
        read_package(package)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runtime": "onyx"}, "Did you mean 'onnx'"),
        ({"files": {}}, "at least one file"),
        ({"files": {"m": Path("/nowhere/model")}}, "/nowhere/model"),
        ({"files": {"../m": Path(__file__)}}, r"'\.\.'"),
        ({"files": {"package.json": Path(__file__)}}, r"package\.json"),
        ({"files": {"m": Path(__file__), "m/x": Path(__file__)}}, "both as"),
        ({"metrics": {"accuracy": float("nan")}}, "accuracy"),
        ({"runtime": "python"}, "needs an entry"),
        ({"runtime": "python", "entry": "predictor"}, "form module:name"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, weights, given, message):
    arguments = {"runtime": "onnx", "signature": SIGNATURE, "files": {"m": weights}} | given
    with pytest.raises(ModelError, match=message):
        write_package(tmp_path / "package", **arguments)
    assert not (tmp_path / "package").exists()


def test_a_package_is_written_once(package, weights):
    before = (package / "package.json").read_bytes()
    with pytest.raises(ModelError, match="not empty"):
        write_package(package, runtime="torch", signature=SIGNATURE, files={"m": weights})
    assert (package / "package.json").read_bytes() == before


@pytest.mark.parametrize("inputs", [(), SIGNATURE.inputs * 2])
def test_signature_needs_inputs_of_different_names(inputs):
    with pytest.raises(ModelError, match="inputs of different names"):
        Signature(inputs=inputs, outputs=SIGNATURE.outputs)


CRASH = """
import os, sys
from pathlib import Path
from ganglion.artifacts import Signature, TensorSpec, write_package
from ganglion.core import faults

faults.install(lambda name, context: os._exit(9) if name == "artifacts.package" else None)
spec = TensorSpec("x", "float32", (-1,))
source = Path(sys.argv[2])
write_package(Path(sys.argv[1]), runtime="onnx", signature=Signature((spec,), (spec,)), files={"m": source})
"""


def test_crash_while_writing_leaves_a_half_written_package(tmp_path, weights, run_python):
    process = run_python(CRASH, tmp_path / "package", weights)
    process.communicate()
    assert process.returncode == 9
    with pytest.raises(ModelError, match="half written"):
        read_package(tmp_path / "package")
