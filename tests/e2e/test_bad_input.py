"""Bad input: a clear error, exit code 2, and nothing written."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import RECIPE, Command

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HEAD = "from ganglion import pipeline, step\n"
CYCLE = (
    HEAD
    + """
@step
def one(value):
    return value

@step
def two(value):
    return value

@pipeline
def loop():
    first = one(1)
    second = two(first)
    second.then(first)
    return second
"""
)
MISSING_ARGUMENT = (
    HEAD
    + """
@step
def add(left, right):
    return left + right

@pipeline
def short():
    return add(left=1)
"""
)


def refuse(ganglion: Command, *arguments: str, words: tuple[str, ...], **options: dict[str, str]) -> None:
    done = ganglion(*arguments, **options)
    assert done.returncode == 2, (done.stdout, done.stderr)
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not ganglion.home.exists(), "nothing is written"


def test_an_unknown_key_names_the_nearest(ganglion: Command) -> None:
    refuse(ganglion, "run", str(RECIPE), "--set", "epoch=2", words=("'epoch'", "Did you mean 'epochs'?"))


def test_a_value_of_the_wrong_type(ganglion: Command) -> None:
    refuse(ganglion, "run", str(RECIPE), "--set", "epochs=many", words=("epochs", "int"))


def test_a_cycle_is_named(ganglion: Command, write: Callable[..., Path]) -> None:
    refuse(ganglion, "run", str(write("cyclic.py", CYCLE)), words=("cycle", "`one`", "`two`"))


def test_an_argument_that_nobody_gives(ganglion: Command, write: Callable[..., Path]) -> None:
    refuse(ganglion, "run", str(write("short.py", MISSING_ARGUMENT)), words=("`add`", "`right`"))


def test_a_missing_file(ganglion: Command) -> None:
    refuse(ganglion, "run", "nowhere.py", words=("There is no file nowhere.py",))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(DEBIAN, folder)
    return folder


def test_a_truncated_idx_file(ganglion: Command, data: Path) -> None:
    path = data / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1_000_000])
    refuse(ganglion, "run", str(RECIPE), words=("train-images", "truncated"), environment={"GANGLION_DATA": str(data)})


def test_images_and_labels_of_different_counts(ganglion: Command, data: Path) -> None:
    path = data / "train-labels-idx1-ubyte.gz"
    labels = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(labels[:4] + (59_999).to_bytes(4, "big") + labels[8:-1]))
    refuse(ganglion, "run", str(RECIPE), words=("60000", "59999"), environment={"GANGLION_DATA": str(data)})


def test_a_half_written_model_version(ganglion: Command) -> None:
    version = ganglion.home / "models" / "fashion" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"half")
    done = ganglion("serve", "fashion")
    assert done.returncode == 2
    assert "fashion" in done.stderr
    assert "Traceback" not in done.stderr
