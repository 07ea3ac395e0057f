"""What every runtime that has text has to do; each check is given a package of the model of `text_samples`.

Like `runtime_contract` it is also used by a program of an environment of its own, so it needs little.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.serving.model import LoadedModel

SIGNATURE = Signature(
    inputs=(TensorSpec("text", "string", (-1,)), TensorSpec("times", "int64", (-1,))),
    outputs=(TensorSpec("loud", "string", (-1,)), TensorSpec("score", "float32", (-1,))),
)
TEXTS = ("good", "", "zürich 🦆", "a\0b", "\n\t\"'{}[]", "e\u0301", "x" * 5000)


def texts(*values: str) -> np.ndarray:
    return np.array([*values, None], object)[:-1]


def gives_text_and_numbers(folder: Path) -> None:
    model = LoadedModel(folder)
    model.warm(4)
    outputs, failures = model.predict({"text": texts(*TEXTS), "times": np.arange(len(TEXTS))})
    assert failures == []
    assert outputs["loud"].tolist() == [text + "!" for text in TEXTS]
    assert outputs["score"].tolist() == [number + 0.5 for number in range(len(TEXTS))]
    model.close()


def gives_arrays_of_str(folder: Path) -> None:
    outputs, _ = LoadedModel(folder).predict({"text": texts("a", "b"), "times": np.array([1, 2])})
    assert (outputs["loud"].dtype, outputs["loud"].shape) == (np.dtype(object), (2,))
    assert {type(text) for text in outputs["loud"]} == {str}


def takes_batches_of_any_size(folder: Path) -> None:
    model = LoadedModel(folder)
    model.warm(8)  # more than these are computed in slices
    given = texts(*(f"number {number}" for number in range(70)))
    outputs, failures = model.predict({"text": given, "times": np.zeros(70, np.int64)})
    assert failures == []
    assert outputs["loud"].tolist() == [f"number {number}!" for number in range(70)]


def leaves_its_inputs_alone(folder: Path) -> None:
    given = texts("a", "b")
    LoadedModel(folder).predict({"text": given, "times": np.array([1, 2])})
    assert given.tolist() == ["a", "b"]


CHECKS: dict[str, Callable[[Path], None]] = {
    check.__name__: check
    for check in (gives_text_and_numbers, gives_arrays_of_str, takes_batches_of_any_size, leaves_its_inputs_alone)
}
