"""What the gateway serves, as the controller tells it: plain data, sent whole, the newest one counts."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ganglion.artifacts.package import ImageInput, Signature
from ganglion.serving.callers import Callers

State = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
"""States of a version, as TensorFlow Serving names them."""

SETTLED = "settled"
"""Key of the report in which a gateway says which generation of routes is in force, and all before it finished."""


class ReplicaRoute(msgspec.Struct, frozen=True):
    """One attempt of one replica.

    Attributes:
        id: differs between attempts.
        endpoint: `unix:PATH` or `tcp:HOST:PORT`.
    """

    id: str
    endpoint: str


class VersionRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model.

    Attributes:
        version: its number.
        state: LOADING and AVAILABLE versions take requests; UNLOADING ones finish what they hold.
        signature: what it takes and gives.
        image: how an encoded image becomes its input, if it takes images.
        classes: names of the last dimension of its output.
        replicas: those that are ready.
        error: why it ended, if it did not end on request.
    """

    version: int
    state: State
    signature: Signature
    image: ImageInput | None = None
    classes: tuple[str, ...] = ()
    replicas: tuple[ReplicaRoute, ...] = ()
    error: str = ""


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        name: its name.
        default: the version that answers where none is asked for; `None` while it is being undeployed.
        versions: oldest first.
        max_batch: instances of the largest batch.
        max_queue: instances that may wait.
        timeout: seconds that a request may take in all.
    """

    name: str
    default: int | None
    versions: tuple[VersionRoute, ...]
    max_batch: int = 32
    max_queue: int = 4096
    timeout: float = 30.0


class EnsembleRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A name whose answer is made of the answers of several models.

    Attributes:
        name: its name.
        members: names of models, at least one.
        how: how their answers become one.
    """

    name: str
    members: tuple[str, ...]
    how: str = "mean"


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is served.

    Attributes:
        generation: grows with every change.
        models: by any order, of different names.
        ensembles: of names that no model has.
        callers: limits of those who ask; `None` asks nobody who he is and limits nobody.
    """

    generation: int
    models: tuple[ModelRoute, ...] = ()
    ensembles: tuple[EnsembleRoute, ...] = ()
    callers: Callers | None = None

    def to_data(self) -> Any:
        """Plain data, for a control message."""
        return msgspec.to_builtins(self)

    @staticmethod
    def from_data(data: Any) -> Routes:
        """Read what `to_data` wrote."""
        return msgspec.convert(data, Routes)
