"""Sample inputs with expected outputs, in a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ganglion.artifacts.checks import CHECKS, Checks, read_checks, write_checks
from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.core.errors import ModelError

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", (-1, 2)),), outputs=(TensorSpec("y", "float32", (-1,)),))
X = {"x": np.array([[1, 2], [3, 4]], np.float32)}
Y = {"y": np.array([3, np.nan], np.float32)}


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    write_checks(tmp_path / CHECKS, X, Y, tolerance=0.01)
    found = read_checks(tmp_path, SIGNATURE)
    assert found is not None
    return found


def test_what_was_written_is_read(checks: Checks) -> None:
    assert checks.samples == 2
    assert checks.tolerance == 0.01
    np.testing.assert_array_equal(checks.inputs["x"], X["x"])
    np.testing.assert_array_equal(checks.outputs["y"], Y["y"])


def test_an_answer_within_the_tolerance_passes(checks: Checks) -> None:
    checks.compare({"y": Y["y"] + np.float32(0.005)})


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"y": np.array([3.02, np.nan], np.float32)}, "output 'y' of sample 0 differs by 0.02; 0.01 is allowed"),
        ({"y": np.array([3, 4], np.float32)}, "output 'y' of sample 1 differs"),
        ({"y": np.array([np.nan, np.nan], np.float32)}, "output 'y' of sample 0 differs"),
        ({"y": np.array([[3, np.nan]], np.float32)}, r"is \[1, 2\]; the package's checks expect \[2\]"),
        ({}, "'y' is missing"),
    ],
)
def test_another_answer_is_refused(checks: Checks, outputs: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        checks.compare(outputs)


def test_a_package_without_checks_has_none(tmp_path: Path) -> None:
    assert read_checks(tmp_path, SIGNATURE) is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"z": X["x"]}, Y, "cannot be read: KeyError"),
        (X, {"z": Y["y"]}, "does not fit the signature"),
        (X, {}, "does not fit the signature"),
        (X, {"y": Y["y"][:1]}, "does not fit the signature"),
        ({"x": X["x"].astype(np.float64)}, Y, "does not fit the signature"),
        ({"x": X["x"][:0]}, {"y": Y["y"][:0]}, "does not fit the signature"),
    ],
)
def test_checks_of_another_model_are_refused(
    tmp_path: Path, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray], words: str
) -> None:
    write_checks(tmp_path / CHECKS, inputs, outputs)
    with pytest.raises(ModelError, match=words):
        read_checks(tmp_path, SIGNATURE)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKS).write_bytes(content)
    with pytest.raises(ModelError, match=f"{CHECKS} cannot be read"):
        read_checks(tmp_path, SIGNATURE)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    with (tmp_path / CHECKS).open("wb") as file:
        np.savez(file, tolerance=np.array({"a": 1}, dtype=object))
    with pytest.raises(ModelError, match="cannot be read: ValueError"):
        read_checks(tmp_path, SIGNATURE)
