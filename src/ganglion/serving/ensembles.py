"""Which models can be one ensemble, and what it shows of itself; how answers are combined is the gateway's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ganglion.artifacts.package import TensorSpec
from ganglion.core.errors import ModelError, UserError, suggest
from ganglion.serving.routes import EnsembleRoute, State, VersionRoute
from ganglion.serving.sharding import is_function

MEAN = "mean"
WEIGHTED = "weighted"
VOTE = "vote"
UNION = "union"

WAYS = (MEAN, WEIGHTED, VOTE, UNION)
"""Names of all ways to combine; a user's function has the form `module:function`."""


def united_classes(members: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All classes that any model knows, in the order in which they are first named."""
    return tuple(dict.fromkeys(name for classes in members for name in classes))


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
            len(output.shape) == 1 and output.dtype.startswith("float") for output in member.signature.outputs
        ):
            raise ModelError(f"{name!r} gives one number for each instance; nothing can be voted on.")
        for output in member.signature.outputs:
            if output.dtype == "string" and route.how in WAYS and (route.how != VOTE or len(output.shape) != 1):
                raise ModelError(
                    f"{name!r} gives text {list(output.shape)}, of which there is no {route.how}; one text for each "
                    f"instance can be voted on ({VOTE!r}), and a function can combine any."
                )


def ensemble_version(route: EnsembleRoute, members: Sequence[VersionRoute], state: State) -> VersionRoute:
    """What an ensemble shows of itself: version 1, what its members take, and what they give together."""
    first = members[0]
    signature, classes = first.signature, first.classes
    if route.how == UNION:
        classes = united_classes([member.classes for member in members])
        output = TensorSpec(signature.outputs[0].name, signature.outputs[0].dtype, (-1, len(classes)))
        signature = msgspec.structs.replace(signature, outputs=(output,))
    return VersionRoute(version=1, state=state, signature=signature, image=first.image, classes=classes)
