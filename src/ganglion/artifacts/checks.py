"""The checks of a model package: sample inputs with the outputs that the model gave for them when it was packaged.

They lie in the package as `checks.npz`, a file as any other, with its digest. Whoever loads the model compares what it
answers here and now, with this library, on this machine, before it answers anybody.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganglion.artifacts.elements import element_type
from ganglion.artifacts.package import Signature
from ganglion.core.errors import ModelError

CHECKS = "checks.npz"
"""Path of the checks in a package."""

Arrays = Mapping[str, NDArray[Any]]

_TOLERANCE = "tolerance"


class Checks(NamedTuple):
    """Samples and what is expected of them.

    Attributes:
        inputs: by name; the first size is the number of samples.
        outputs: by name; as many.
        tolerance: largest absolute difference of a number; texts have to be equal.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    tolerance: float

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.inputs.values())))

    def compare(self, outputs: Arrays) -> None:
        """Compare what a model answers with what is expected.

        Args:
            outputs: by name.

        Raises:
            ModelError: an output is missing, has another shape, or differs by more than the tolerance.
        """
        for name, expected in self.outputs.items():
            given = outputs.get(name)
            if given is None or given.shape != expected.shape:
                shown = "is missing" if given is None else f"is {list(given.shape)}"
                raise ModelError(f"Output {name!r} {shown}; the package's checks expect {list(expected.shape)}.")
            if expected.dtype.kind == "O":
                _compare_texts(name, given, expected)
                continue
            difference = np.abs(given.astype(np.float64) - expected.astype(np.float64))
            difference[np.isnan(given.astype(np.float64)) & np.isnan(expected.astype(np.float64))] = 0.0
            if not (difference <= self.tolerance).all():
                sample = int(np.argmax(np.nan_to_num(difference, nan=np.inf).reshape(len(expected), -1).max(axis=1)))
                largest = float(np.nan_to_num(difference[sample], nan=np.inf).max())
                raise ModelError(
                    f"The model does not answer as it did when it was packaged: output {name!r} of sample {sample} "
                    f"differs by {largest:.3g}; {self.tolerance:g} is allowed."
                )


def _compare_texts(name: str, given: NDArray[Any], expected: NDArray[Any]) -> None:
    differing = (given != expected).reshape(len(expected), -1).any(axis=1)
    if differing.any():
        sample = int(np.argmax(differing))
        raise ModelError(
            f"The model does not answer as it did when it was packaged: output {name!r} of sample {sample} is "
            "another text."
        )


def write_checks(path: Path, inputs: Arrays, outputs: Arrays, *, tolerance: float = 1e-3) -> None:
    """Write checks to a file that `write_package` is then given as `CHECKS`.

    Args:
        path: of the file.
        inputs: at least one sample, by the names of the signature.
        outputs: what the model gave for them.
        tolerance: largest absolute difference of an element; room for another library or processor.

    Raises:
        ModelError: a text ends with NUL, which the file cannot keep.
    """
    named = {f"input/{name}": values for name, values in inputs.items()}
    named |= {f"output/{name}": values for name, values in outputs.items()}
    if any(text.endswith("\0") for values in named.values() if values.dtype.kind == "O" for text in values.flat):
        raise ModelError("A text of a check ends with NUL, which the file of checks cannot keep; take another sample.")
    # What NumPy has for text of one length needs no pickle.
    named = {name: values.astype(str) if values.dtype.kind == "O" else values for name, values in named.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_TOLERANCE: np.float64(tolerance)}, **named)


def read_checks(folder: Path, signature: Signature) -> Checks | None:
    """The checks of the package in `folder`; `None` if it has none.

    Raises:
        ModelError: they do not parse, or are not of this signature.
    """
    path = folder / CHECKS
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        arrays = {name: values.astype(object) if values.dtype.kind == "U" else values for name, values in found.items()}
        tolerance = float(arrays.pop(_TOLERANCE))
        inputs = {tensor.name: arrays.pop(f"input/{tensor.name}") for tensor in signature.inputs}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read: {type(error).__name__}: {error}. Package the model again.") from error
    outputs = {name.removeprefix("output/"): values for name, values in arrays.items()}
    checks = Checks(inputs, outputs, tolerance)
    known = {tensor.name for tensor in signature.outputs}
    sizes = {values.shape[:1] for values in (*inputs.values(), *outputs.values())}
    fit = all(
        values.dtype == element_type(tensor.dtype)
        for tensor, values in zip(signature.inputs, inputs.values(), strict=True)
    )
    if not outputs or not outputs.keys() <= known or len(sizes) != 1 or sizes & {(), (0,)} or not fit:
        raise ModelError(f"{path} does not fit the signature of its package. Package the model again.")
    return checks
