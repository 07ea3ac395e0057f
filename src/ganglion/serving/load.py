"""What a gateway tells the controller about the load of a model version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

LOAD = "load"
"""Key of the report in which a gateway gives the loads of the versions whose replicas follow it."""

LOAD_INTERVAL = 0.5
"""Seconds between two such reports; a request for a version without replicas is reported at once."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one version since the report before.

    Attributes:
        model: name of the model.
        version: number of the version.
        seconds: that it was observed for.
        concurrency: requests in hand on average, waiting ones included; one that is larger than a batch counts as
            many times as it takes batches.
        requests: that came.
        waiting: in hand now.
    """

    model: str
    version: int
    seconds: float
    concurrency: float
    requests: int
    waiting: int


class LoadSum:
    """The loads that several gateways report, added up: what one reported counts until it does so again or is gone."""

    def __init__(self) -> None:
        self._last: dict[str, dict[tuple[str, int], Load]] = {}

    def take(self, gateway: str, loads: Sequence[Load]) -> list[Load]:
        """What all gateways together had in the time for which one of them reports."""
        self._last[gateway] = {(load.model, load.version): load for load in loads}
        others = [known for name, known in self._last.items() if name != gateway]
        return [
            _add(load, [known[key] for known in others if (key := (load.model, load.version)) in known])
            for load in loads
        ]

    def forget(self, gateway: str) -> None:
        """A gateway is gone."""
        self._last.pop(gateway, None)


def _add(load: Load, others: Sequence[Load]) -> Load:
    return msgspec.structs.replace(
        load,
        concurrency=load.concurrency + sum(other.concurrency for other in others),
        requests=load.requests
        + round(sum(other.requests / max(other.seconds, 1e-3) for other in others) * load.seconds),
        waiting=load.waiting + sum(other.waiting for other in others),
    )


def loads_to_data(loads: Sequence[Load]) -> Any:
    """Plain data, for a report."""
    return msgspec.to_builtins(loads)


def loads_from_data(data: Any) -> list[Load]:
    """Read what `loads_to_data` wrote."""
    return msgspec.convert(data, list[Load])
