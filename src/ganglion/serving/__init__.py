"""Model serving: the repository of published versions, the replicas that run them and the gateway in front.

`ModelRepository` keeps versions, `ModelServer` serves them through a supervisor, `Client` asks. The gateway process
owns every request until its answer is written; replicas are killable processes that answer batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.serving.client import Client
    from ganglion.serving.controller import ModelServer
    from ganglion.serving.options import ServingOptions
    from ganglion.serving.repository import ModelRepository
    from ganglion.serving.rollout import Canary

__all__ = ["Canary", "Client", "ModelRepository", "ModelServer", "ServingOptions"]

_MODULES = {
    "Canary": "rollout",
    "Client": "client",
    "ModelRepository": "repository",
    "ModelServer": "controller",
    "ServingOptions": "options",
}

__getattr__ = lazy_names(__name__, _MODULES)
