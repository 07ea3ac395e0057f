"""What the gateway serves, as the controller tells it: plain data, sent whole, the newest one counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from ganglion.artifacts.package import ImageInput, Signature
from ganglion.serving.callers import Callers
from ganglion.serving.options import Balancing
from ganglion.serving.sharding import Sharding

State = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
"""States of a version, as TensorFlow Serving names them."""

SETTLED = "settled"
"""Key of the report in which a gateway says which generation of routes is in force, and all before it finished."""


class ReplicaRoute(msgspec.Struct, frozen=True):
    """One attempt of one replica.

    Attributes:
        id: `job/member/attempt`; differs between attempts.
        endpoint: `unix:PATH` or `tcp:HOST:PORT`.
    """

    id: str
    endpoint: str


class ReplicaEnd(msgspec.Struct, frozen=True):
    """How one attempt of one replica ended.

    Attributes:
        id: as in its route.
        outside: whether somebody killed it; no request is the cause then, unless it was the kernel for want of memory.
        hanging: whether it was ended because it did not come back from what it was at.
    """

    id: str
    outside: bool
    hanging: bool = False


class VersionRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model.

    Attributes:
        version: its number.
        state: LOADING and AVAILABLE versions take requests; UNLOADING ones finish what they hold.
        signature: what it takes and gives.
        image: how an encoded image becomes its input, if it takes images.
        classes: names of the last dimension of its output.
        replicas: those that are ready.
        error: why it ended, if it did not end on request, or why no replica of it can be started.
        package: folder of its package, where the gateway is to hold the model as well as the replicas; else empty.
        ends: of the replicas that ended last.
    """

    version: int
    state: State
    signature: Signature
    image: ImageInput | None = None
    classes: tuple[str, ...] = ()
    replicas: tuple[ReplicaRoute, ...] = ()
    error: str = ""
    package: str = ""
    ends: tuple[ReplicaEnd, ...] = ()


class CanaryRoute(msgspec.Struct, frozen=True):
    """A version that is given a part of the requests that ask for none.

    Attributes:
        version: its number.
        percent: of these requests.
    """

    version: int
    percent: float


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        name: its name.
        default: the version that answers where none is asked for; `None` while it is being undeployed.
        versions: oldest first.
        max_batch: instances of the largest batch.
        max_queue: instances that may wait.
        timeout: seconds that a request may take in all.
        sharding: how a large request is split over the replicas; `None` lets any free replica take any batch of it.
        container_concurrency: requests that one replica holds at once; 0 for no limit.
        labels: versions by the names that stand for them: the aliases of the repository.
        elastic: whether the load has to be reported, since replicas follow it, from none on.
        canary: a version that is tried beside the default one, if there is one.
        balancing: which replica takes a request: `late-binding`, the first that is free, or by a policy when it comes.
        quarantine: folder in which requests are kept that ended two replicas; empty keeps none.
        gateways: how many share its requests.
    """

    name: str
    default: int | None
    versions: tuple[VersionRoute, ...]
    max_batch: int = 32
    max_queue: int = 4096
    timeout: float = 30.0
    sharding: Sharding | None = None
    container_concurrency: int = 0
    labels: dict[str, int] = {}
    elastic: bool = False
    canary: CanaryRoute | None = None
    balancing: Balancing = "late-binding"
    quarantine: str = ""
    gateways: int = 1

    def shared(self, gateways: int) -> ModelRoute:
        """What each of several gateways is told: what replicas hold at once is divided among them."""
        limit = self.container_concurrency
        return msgspec.structs.replace(
            self, gateways=gateways, container_concurrency=max(1, limit // gateways) if limit else 0
        )

    def keeping(self, quarantine: Path) -> ModelRoute:
        """The same, with a folder for requests that end replicas."""
        return msgspec.structs.replace(self, quarantine=str(quarantine.absolute()))


class EnsembleRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A name whose answer is made of the answers of several models.

    Attributes:
        name: its name.
        members: names of models, at least one.
        how: how their answers become one: `mean`, `weighted`, `vote`, `union`, or the user's function as
            `module:function`, from the outputs of each member by its name to outputs by name.
        weights: of the members, for `weighted`.
        quorum: members that suffice at the deadline of a request; `None` needs all.
        overlap: what counts in a `union` where several members know a class.
    """

    name: str
    members: tuple[str, ...]
    how: str = "mean"
    weights: tuple[float, ...] = ()
    quorum: int | None = None
    overlap: Literal["mean", "max"] = "mean"


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is served.

    Attributes:
        generation: grows with every change.
        models: by any order, of different names.
        ensembles: of names that no model has.
        callers: limits of those who ask; `None` asks nobody who he is and limits nobody.
        rows: where several gateways count what each caller was let in for, by what the caller is called.
    """

    generation: int
    models: tuple[ModelRoute, ...] = ()
    ensembles: tuple[EnsembleRoute, ...] = ()
    callers: Callers | None = None
    rows: dict[str, int] = {}

    def to_data(self) -> Any:
        """Plain data, for a control message."""
        return msgspec.to_builtins(self)

    @staticmethod
    def from_data(data: Any) -> Routes:
        """Read what `to_data` wrote."""
        return msgspec.convert(data, Routes)
