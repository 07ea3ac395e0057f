"""A loaded model that answers batches: preprocessing, the runtime, and which instance is to blame when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.artifacts.checks import read_checks
from ganglion.artifacts.elements import blank, element_type
from ganglion.artifacts.package import PackageManifest, read_package
from ganglion.core.errors import DataError, ModelError
from ganglion.core.give_back import give_back_memory
from ganglion.core.log import get_logger
from ganglion.serving import strings
from ganglion.serving.runtime import Tensors, load_runtime
from ganglion.serving.wire import Failure

_log = get_logger(part="serving.model")


class LoadedModel:
    """The model of one package, in this process.

    Args:
        folder: a model package; every byte is verified before it is loaded.

    Raises:
        ModelError: the package is half written, damaged or cannot be served.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest: PackageManifest = read_package(folder)
        self._runtime = load_runtime(folder, self.manifest)
        if self.manifest.image is not None:
            from ganglion.serving import preprocess  # brings an image library, which others do not need

            self._preprocess = preprocess
        self._most = 0
        self._outputs = [(tensor, element_type(tensor.dtype)) for tensor in self.manifest.signature.outputs]

    def close(self) -> None:
        """Give the model's memory back."""
        self._runtime.close()

    def check(self) -> None:
        """Compare what the model answers here with what it answered when it was packaged, if the package says so.

        Raises:
            ModelError: it answers differently.
        """
        checks = read_checks(self._folder, self.manifest.signature)
        if checks is not None:
            checks.compare(self._run(checks.inputs, checks.samples))

    def warm(self, rows: int) -> None:
        """Predict zeros in batches of 1, 2, 4 and so on up to `rows`, so that the first caller waits for nothing.

        What the larger ones took is given back: a model that nobody asks is to need little. From now on no more than
        `rows` instances are computed at once, however many come together.

        Raises:
            ModelError: the model does not give what its signature says.
        """
        for count in (*(2**power for power in range((rows - 1).bit_length())), rows):
            self._run(self.zeros(count), count)
        self._most = rows
        self._runtime.settle(self.zeros(1))
        give_back_memory()
        self._run(self.zeros(1), 1)  # brings back what a prediction needs of it

    def predict(self, inputs: Tensors) -> tuple[Tensors, list[Failure]]:
        """Predict a batch of tensors.

        Where the model fails on a batch, its instances are tried one by one, so that one does not fail the others.

        Args:
            inputs: one array for each input of the signature; the first size is the number of instances.

        Returns:
            Outputs by name, rows of failed instances zero or without text (empty when all failed), and the failures.
        """
        rows = len(next(iter(inputs.values())))
        if 0 < self._most < rows:
            return self._in_slices(inputs, rows)
        try:
            return self._run(inputs, rows), []
        except DataError as error:
            if rows == 1:
                return {}, [Failure(0, True, str(error))]
        except Exception as error:  # noqa: BLE001  a model may raise anything; it is the answer to this batch
            _log.warning("model_failed", rows=rows, error=f"{type(error).__name__}: {error}", where=_where(error))
            if rows == 1:
                return {}, [Failure(0, False, f"The model failed: {type(error).__name__}: {error}")]
        return self._one_by_one(inputs, rows)

    def predict_images(self, images: Sequence[bytes | memoryview]) -> tuple[Tensors, list[Failure]]:
        """Decode encoded images and predict them; an image that cannot be decoded fails alone.

        Returns:
            As `predict`.
        """
        if self.manifest.image is None:
            return {}, [Failure(row, True, "This model takes no images.") for row in range(len(images))]
        tensor = self.manifest.signature.inputs[0]
        pixels = np.zeros((len(images), *tensor.shape[1:]), tensor.dtype)
        failures: list[Failure] = []
        for row, data in enumerate(images):
            try:
                decoded = self._preprocess.decode_image(data, self.manifest.image)
                pixels[row] = self._preprocess.shape_pixels(decoded, self.manifest.image, tensor)
            except DataError as error:
                failures.append(Failure(row, True, str(error)))
        good = [row for row in range(len(images)) if row not in {failure.row for failure in failures}]
        if not failures or not good:
            return self.predict({tensor.name: pixels}) if good else ({}, failures)
        outputs, failed = self.predict({tensor.name: pixels[good]})
        failures += [Failure(good[failure.row], failure.invalid, failure.message) for failure in failed]
        return {name: _scatter(values, good, len(images)) for name, values in outputs.items()}, failures

    def zeros(self, rows: int) -> Tensors:
        """Inputs of so many instances, of zeros and empty texts, free dimensions at their smallest."""
        return {
            tensor.name: blank((rows, *(max(size, 1) for size in tensor.shape[1:])), element_type(tensor.dtype))
            for tensor in self.manifest.signature.inputs
        }

    def _run(self, inputs: Tensors, rows: int) -> Tensors:
        outputs = self._runtime.predict(inputs)
        for tensor, dtype in self._outputs:
            if tensor.name not in outputs:
                raise ModelError(
                    f"There is no output {tensor.name!r}; the model gave {', '.join(sorted(outputs)) or 'none'}."
                )
            given = outputs[tensor.name]
            expected = (rows, *tensor.shape[1:])
            if dtype.kind == "O" and (problem := strings.problem(given)):
                raise ModelError(f"Output {tensor.name!r}: {problem}.")
            if given.shape == expected and given.dtype == dtype:
                continue
            fits = given.ndim == len(expected) and all(
                wanted in (-1, size) for wanted, size in zip(expected, given.shape, strict=True)
            )
            if not fits or given.dtype != dtype:
                raise ModelError(
                    f"Output {tensor.name!r} is {given.dtype} {list(given.shape)}; "
                    f"the signature says {tensor.dtype} {list(expected)}."
                )
        return outputs

    def _in_slices(self, inputs: Tensors, rows: int) -> tuple[Tensors, list[Failure]]:
        """Predict more instances than are computed at once."""
        answers: list[tuple[int, Tensors]] = []
        failures: list[Failure] = []
        for start in range(0, rows, self._most):
            outputs, failed = self.predict(
                {name: values[start : start + self._most] for name, values in inputs.items()}
            )
            failures += [Failure(start + failure.row, failure.invalid, failure.message) for failure in failed]
            if outputs:
                answers.append((start, outputs))
        collected: Tensors = {}
        for start, outputs in answers:
            for name, values in outputs.items():
                whole = collected.get(name)
                if whole is None:
                    whole = collected[name] = blank((rows, *values.shape[1:]), values.dtype)
                if values.shape[1:] != whole.shape[1:]:
                    kinds = f"{list(whole.shape[1:])} and {list(values.shape[1:])}"
                    text = f"Output {name!r} has parts that do not go together: {kinds}."
                    return {}, [Failure(row, False, text) for row in range(rows)]
                whole[start : start + len(values)] = values
        return collected, failures

    def _one_by_one(self, inputs: Tensors, rows: int) -> tuple[Tensors, list[Failure]]:
        collected: Tensors = {}
        failures: list[Failure] = []
        for row in range(rows):
            outputs, failed = self.predict({name: values[row : row + 1] for name, values in inputs.items()})
            failures += [Failure(row, failure.invalid, failure.message) for failure in failed]
            for name, values in outputs.items():
                collected.setdefault(name, blank((rows, *values.shape[1:]), values.dtype))[row] = values[0]
        return collected, failures


def _where(error: BaseException) -> str:
    """The line that raised, by which a person finds what was wrong with code of their own."""
    import traceback  # a model that does not fail has no need of it

    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def _scatter(values: NDArray[Any], rows: list[int], count: int) -> NDArray[Any]:
    scattered = blank((count, *values.shape[1:]), values.dtype)
    scattered[rows] = values
    return scattered
