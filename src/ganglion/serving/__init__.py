"""Model serving: the repository of published versions, the replicas that run them and the gateway in front.

`ModelRepository` keeps versions, `ModelServer` serves them through a supervisor, `Client` asks. The gateway process
owns every request until its answer is written; replicas are killable processes that answer batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ganglion.core.registry import load_object

if TYPE_CHECKING:
    from ganglion.serving.client import Client
    from ganglion.serving.controller import ModelServer
    from ganglion.serving.repository import ModelRepository

__all__ = ["Client", "ModelRepository", "ModelServer"]

_PLACES = {
    "Client": "ganglion.serving.client:Client",
    "ModelRepository": "ganglion.serving.repository:ModelRepository",
    "ModelServer": "ganglion.serving.controller:ModelServer",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a client loads no server."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_object(_PLACES[name])
