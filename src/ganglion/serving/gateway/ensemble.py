"""How the answers of several models to the same instances become one answer; pure.

A member that is missing (`None`) counts for nothing: weights and votes are those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ganglion.serving.ensembles import MEAN, UNION, VOTE, WEIGHTED, united_classes
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.routes import EnsembleRoute
from ganglion.serving.runtime import Tensors

Outputs = Sequence[NDArray[Any]]
T = TypeVar("T")


def mean(values: Outputs, _weights: Sequence[float] = ()) -> NDArray[Any]:
    """Mean over models, computed in float64; floating outputs keep their type, others become float64.

    In place: `np.mean` would stack the outputs first, which takes longer than the sum of small ones.
    """
    total = values[0].astype(np.float64)
    for value in values[1:]:
        total += value
    total /= len(values)
    return _as_given(total, values)


def weighted(values: Outputs, weights: Sequence[float]) -> NDArray[Any]:
    """Mean over models with weights, of which only the proportions count; types as for `mean`."""
    total = np.zeros(values[0].shape, np.float64)
    for value, weight in zip(values, weights, strict=True):
        total += np.multiply(value, weight, dtype=np.float64)
    return _as_given(total / sum(weights), values)


def vote(values: Outputs, _weights: Sequence[float] = ()) -> NDArray[Any]:
    """What most models say; among equally many votes, what the first of those models says.

    Args:
        values: scores of classes in the last dimension, of which the largest is a model's vote; or whole numbers or
            texts `[rows]`, which are votes themselves.

    Returns:
        One for the class that won and zero for the others; or the whole number or text that won.

    Raises:
        RequestError: they are neither.
    """
    scores = values[0].ndim > 1
    if not scores and values[0].dtype.kind not in "biuO":
        raise RequestError(500, f"Nothing can be voted on: one {values[0].dtype} for each instance is no class.")
    labels = np.stack([value.argmax(axis=-1) for value in values] if scores else list(values))
    votes = (labels[:, None] == labels[None]).sum(axis=1)
    winners: NDArray[Any] = np.take_along_axis(labels, votes.argmax(axis=0)[None], axis=0)[0]
    if not scores:
        return winners
    one = np.zeros(values[0].shape, values[0].dtype)
    np.put_along_axis(one, winners[..., None], 1, axis=-1)
    return one


COMBINATIONS: dict[str, Callable[[Outputs, Sequence[float]], NDArray[Any]]] = {
    MEAN: mean,
    WEIGHTED: weighted,
    VOTE: vote,
}
"""Ways to combine: from one output of every model, all of one shape, and their weights, to the combined output."""


def unite(answers: Outputs, classes: Sequence[Sequence[str]], united: Sequence[str], overlap: str) -> NDArray[Any]:
    """Scores of all classes from models that know different ones.

    Args:
        answers: scores `[rows, classes]` of each model.
        classes: names of each model's classes.
        united: names of the classes of the result.
        overlap: what counts for a class that several know: the `mean` or the `max` of their scores.

    Returns:
        `[rows, united classes]`; NaN for a class that none of the models knows.
    """
    shape = (len(answers[0]), len(united))
    number = {name: index for index, name in enumerate(united)}
    result = np.full(shape, np.nan)
    known = np.zeros(len(united))
    for answer, names in zip(answers, classes, strict=True):
        columns = [number[name] for name in names]
        if overlap == "max":
            result[:, columns] = np.fmax(result[:, columns], answer)
        else:
            first = known[columns] == 0
            result[:, columns] = np.where(first, 0.0, result[:, columns]) + answer
            known[columns] += 1
    if overlap != "max":
        result /= np.maximum(known, 1)
    return result.astype(np.result_type(np.float32, *[answer.dtype for answer in answers]), copy=False)


def combine(answers: Sequence[Tensors | None], route: EnsembleRoute, classes: Sequence[Sequence[str]]) -> Tensors:
    """Combine each output over all models that answered.

    Args:
        answers: outputs by name of each member; `None` for one that is missing. At least one is there.
        route: how.
        classes: names of each member's classes.

    Raises:
        RequestError: the models give outputs of different names or shapes.
    """
    there = [answer for answer in answers if answer is not None]
    if route.how == UNION:
        scores = [_scores(answer, names) for answer, names in zip(answers, classes, strict=True) if answer is not None]
        united = unite(scores, _of_present(classes, answers), united_classes(classes), route.overlap)
        return {next(iter(there[0])): united}
    if not all(_alike(there[0], other) for other in there[1:]):
        given = "; ".join(", ".join(f"{name} {list(values.shape)}" for name, values in one.items()) for one in there)
        raise RequestError(500, f"The members of this ensemble answer differently and cannot be combined: {given}.")
    weights = _of_present(route.weights, answers) if route.weights else ()
    return {name: COMBINATIONS[route.how]([answer[name] for answer in there], weights) for name in there[0]}


def _alike(one: Tensors, other: Tensors) -> bool:
    """Whether outputs have the same names and shapes."""
    return one.keys() == other.keys() and all(values.shape == other[name].shape for name, values in one.items())


def _as_given(result: NDArray[Any], values: Outputs) -> NDArray[Any]:
    dtype = values[0].dtype
    return result.astype(dtype) if dtype.kind == "f" else result


def _of_present(values: Sequence[T], answers: Sequence[Tensors | None]) -> list[T]:
    return [value for value, answer in zip(values, answers, strict=True) if answer is not None]


def _scores(answer: Tensors, classes: Sequence[str]) -> NDArray[Any]:
    ((name, values),) = answer.items()
    if values.ndim != 2 or values.shape[1] != len(classes):
        raise RequestError(500, f"Output {name!r} is {list(values.shape)}; {len(classes)} classes are expected.")
    return values
