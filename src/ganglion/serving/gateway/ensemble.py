"""How the answers of several models to the same instances become one answer; pure.

A member that is missing (`None`) counts for nothing: weights and votes are those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ganglion.artifacts.package import TensorSpec
from ganglion.core.errors import ModelError, UserError, suggest
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.routes import EnsembleRoute, State, VersionRoute
from ganglion.serving.runtime import Tensors
from ganglion.serving.sharding import is_function

UNION = "union"
WEIGHTED = "weighted"
VOTE = "vote"

Outputs = Sequence[NDArray[Any]]
T = TypeVar("T")


def mean(values: Outputs, _weights: Sequence[float] = ()) -> NDArray[Any]:
    """Mean over models, computed in float64; floating outputs keep their type, others become float64."""
    return _as_given(np.asarray(np.mean(values, axis=0, dtype=np.float64)), values)


def weighted(values: Outputs, weights: Sequence[float]) -> NDArray[Any]:
    """Mean over models with weights, of which only the proportions count; types as for `mean`."""
    total = np.zeros(values[0].shape, np.float64)
    for value, weight in zip(values, weights, strict=True):
        total += np.multiply(value, weight, dtype=np.float64)
    return _as_given(total / sum(weights), values)


def vote(values: Outputs, _weights: Sequence[float] = ()) -> NDArray[Any]:
    """What most models say; among equally many votes, what the first of those models says.

    Args:
        values: scores of classes in the last dimension, of which the largest is a model's vote; or whole numbers
            `[rows]`, which are votes themselves.

    Returns:
        One for the class that won and zero for the others; or the whole number that won.

    Raises:
        RequestError: they are neither.
    """
    scores = values[0].ndim > 1
    if not scores and values[0].dtype.kind not in "biu":
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
    "mean": mean,
    WEIGHTED: weighted,
    VOTE: vote,
}
"""Ways to combine: from one output of every model, all of one shape, and their weights, to the combined output."""

WAYS = (*COMBINATIONS, UNION)
"""Names of all ways; a user's function has the form `module:function`."""


def united_classes(members: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All classes that any model knows, in the order in which they are first named."""
    return tuple(dict.fromkeys(name for classes in members for name in classes))


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
    shapes = [{name: values.shape for name, values in answer.items()} for answer in there]
    if any(other != shapes[0] for other in shapes):
        given = "; ".join(", ".join(f"{name} {list(shape)}" for name, shape in other.items()) for other in shapes)
        raise RequestError(500, f"The members of this ensemble answer differently and cannot be combined: {given}.")
    weights = _of_present(route.weights, answers) if route.weights else ()
    return {name: COMBINATIONS[route.how]([answer[name] for answer in there], weights) for name in there[0]}


def check_ensemble(route: EnsembleRoute, members: Sequence[VersionRoute]) -> None:
    """Refuse an ensemble that could never answer.

    Args:
        route: the ensemble.
        members: the version of each member that answers.

    Raises:
        UserError: the way to combine is unknown, or what is said about it does not fit.
        ModelError: the members take or give different things.
    """
    count = len(route.members)
    if not route.members or len(set(route.members)) != count:
        raise UserError(f"An ensemble needs different members; given: {', '.join(route.members) or 'none'}.")
    if route.how not in WAYS and not is_function(route.how):
        raise UserError(f"There is no way to combine called {route.how!r}. {suggest(route.how, WAYS)}")
    if (route.how == WEIGHTED) != bool(route.weights):
        raise UserError(f"Weights go with {WEIGHTED!r} and only with it; {route.how!r} has {list(route.weights)}.")
    if route.weights and (
        len(route.weights) != count or not all(0 < weight < float("inf") for weight in route.weights)
    ):
        raise UserError(f"{count} members need as many weights above 0; given: {list(route.weights)}.")
    if route.quorum is not None and not 1 <= route.quorum <= count:
        raise UserError(f"A quorum of {route.quorum} of {count} members was given; from 1 to {count} is possible.")
    first = members[0]
    for name, member in zip(route.members, members, strict=True):
        mine: tuple[Any, ...] = (first.signature, first.image)
        theirs: tuple[Any, ...] = (member.signature, member.image)
        if route.how == UNION:
            outputs = member.signature.outputs
            if len(outputs) != 1 or not member.classes or outputs[0].shape != (-1, len(member.classes)):
                raise ModelError(f"{name!r} cannot take part in a union: its package has to name its classes.")
            mine = (first.signature.inputs, first.signature.outputs[0].name, first.image)
            theirs = (member.signature.inputs, outputs[0].name, member.image)
        if mine != theirs:
            raise ModelError(
                f"{route.members[0]!r} and {name!r} cannot be combined, they take or give different things: "
                f"{first.signature} and {member.signature}."
            )
        if route.how == VOTE and any(
            len(output.shape) == 1 and np.dtype(output.dtype).kind == "f" for output in member.signature.outputs
        ):
            raise ModelError(f"{name!r} gives one number for each instance; nothing can be voted on.")


def ensemble_version(route: EnsembleRoute, members: Sequence[VersionRoute], state: State) -> VersionRoute:
    """What an ensemble shows of itself: version 1, what its members take, and what they give together."""
    first = members[0]
    signature, classes = first.signature, first.classes
    if route.how == UNION:
        classes = united_classes([member.classes for member in members])
        output = TensorSpec(signature.outputs[0].name, signature.outputs[0].dtype, (-1, len(classes)))
        signature = msgspec.structs.replace(signature, outputs=(output,))
    return VersionRoute(version=1, state=state, signature=signature, image=first.image, classes=classes)


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
