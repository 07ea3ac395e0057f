"""How the answers of several models to the same instances become one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.runtime import Tensors


def mean(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Mean over models, computed in float64; floating outputs keep their type, others become float64."""
    averaged = np.asarray(np.mean(values, axis=0, dtype=np.float64))
    dtype = values[0].dtype
    return averaged.astype(dtype) if dtype.kind == "f" else averaged


COMBINATIONS: dict[str, Callable[[Sequence[NDArray[Any]]], NDArray[Any]]] = {"mean": mean}
"""Ways to combine: from one output of every model, all of one shape, to the combined output."""


def combine(answers: Sequence[Tensors], how: str) -> Tensors:
    """Combine each output over all models.

    Args:
        answers: outputs by name, one dictionary for each model.
        how: a key of `COMBINATIONS`.

    Raises:
        RequestError: the models give outputs of different names or shapes.
    """
    shapes = [{name: values.shape for name, values in answer.items()} for answer in answers]
    if any(other != shapes[0] for other in shapes):
        given = "; ".join(", ".join(f"{name} {list(shape)}" for name, shape in other.items()) for other in shapes)
        raise RequestError(500, f"The members of this ensemble answer differently and cannot be combined: {given}.")
    return {name: COMBINATIONS[how]([answer[name] for answer in answers]) for name in answers[0]}
