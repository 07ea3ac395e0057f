"""The link to a replica whose shortest work the gateway does itself, without the way there and back.

One request at a time over one connection is mostly that way. As soon as several are in hand, all go to the replicas, so
that they compute while the gateway reads and writes; unless there are as many gateways as cores. Then a replica would
only take the core from one of them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import Protocol

from ganglion.core.resources import cores
from ganglion.serving.gateway.gateway_model import MOST_ROWS, SHORT, GatewayModel
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.replica_link import LinkOwner, ReplicaLink, hand_out
from ganglion.serving.routes import ModelRoute, ReplicaRoute

CORES = cores()
"""That this process may use."""

_CALM = 4
"""Batches in a row that were alone before the next one is answered here: under load a lone one is chance."""


class FusedOwner(LinkOwner, Protocol):
    """Who is told, and knows what else is in hand."""

    @property
    def lone(self) -> bool:
        """Whether nothing waits and no replica holds anything, beside the batch that is being sent."""
        ...

    @property
    def model(self) -> ModelRoute:
        """The model."""
        ...

    def answered_here(self, rows: int, seconds: float) -> None:
        """The gateway itself answered a batch of so many instances within `seconds`."""
        ...


class FusedLink(ReplicaLink):
    """A link that may have answered a batch when `send` returns.

    Args:
        loop: the gateway's event loop.
        route: which replica.
        owner: who is told.
        model: what answers here, if it does.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, route: ReplicaRoute, owner: FusedOwner, model: GatewayModel
    ) -> None:
        super().__init__(loop, route, owner)
        self._fused_owner = owner
        self._model = model
        self._calm = 0
        model.attach(self)

    def send(self, parts: list[Part]) -> bool:
        """Answer what is short here, if it is lone or no core is left for others; give the replica everything else."""
        owner = self._fused_owner
        if owner.model.gateways < CORES:
            self._calm = self._calm + 1 if len(parts) == 1 and owner.lone else 0
            if self._calm < _CALM:
                return super().send(parts)
        left = self._answer(parts)
        return super().send(left) if left else True

    def _answer(self, parts: list[Part]) -> list[Part]:
        """Answer batch after batch for as long as that is short; returns what is left for the replica."""
        began = monotonic()
        done = 0
        while done < len(parts) and (now := monotonic()) - began < SHORT:
            end, rows = done + 1, parts[done].payload.rows
            while end < len(parts) and rows + parts[end].payload.rows <= MOST_ROWS:
                rows += parts[end].payload.rows
                end += 1
            batch = parts[done:end]
            outputs = self._model.predict(batch)
            if outputs is None:
                break
            self._fused_owner.answered_here(rows, monotonic() - now)
            hand_out(batch, outputs)
            done = end
        return parts[done:]

    def retire(self) -> None:
        """As for every link; nothing is answered here any more."""
        self._model.detach(self)
        super().retire()

    def abort(self) -> None:
        """As for every link; nothing is answered here any more."""
        self._model.detach(self)
        super().abort()


class LinkOpener:
    """Opens the links of one model version.

    Args:
        loop: the gateway's event loop.
        owner: who is told what happens on them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: FusedOwner) -> None:
        self._loop = loop
        self._owner = owner
        self._model: GatewayModel | None = None

    def open(self, route: ReplicaRoute, package: str) -> ReplicaLink:
        """A link to a replica.

        Args:
            route: which.
            package: folder of the model, where the gateway is to hold it as well; all links share it.
        """
        if not package:
            return ReplicaLink(self._loop, route, self._owner)
        if self._model is None or self._model.closed:
            self._model = GatewayModel(self._loop, Path(package))
        return FusedLink(self._loop, route, self._owner, self._model)
